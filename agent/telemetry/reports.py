"""Builds the heartbeat and the status of a running agent, and counts its ended jobs."""

import time
from collections.abc import Callable, Sequence

from provider_agent.agent.backends.configured import SkippedBackend
from provider_agent.agent.backends.discovery import Discovery
from provider_agent.agent.config import Config
from provider_agent.agent.jobs.running import JobRecord, Jobs
from provider_agent.agent.link.coordinator_messages import CoordinatorMessages
from provider_agent.agent.telemetry.backend_loads import backend_loads
from provider_agent.agent.telemetry.metrics import Metrics
from provider_agent.agent.telemetry.rolling_stats import RollingStats
from provider_agent.agent.telemetry.status import BackendStatus, StatusSnapshot
from provider_agent.agent.version import agent_version
from provider_agent.protocol.errors import known_code
from provider_agent.protocol.field_values import clamp_count, valid_measure, valid_share
from provider_agent.protocol.frames import Heartbeat, JobError


class Reports:
    """Builds heartbeats and status snapshots from the current state of the agent's parts.

    Args:
        config: all settings.
        skipped: configured backends that are not used.
        discovery: the pool of the backends that are used.
        jobs: the running jobs.
        stats: statistics of the last 60 seconds.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        config: Config,
        skipped: Sequence[SkippedBackend],
        discovery: Discovery,
        jobs: Jobs,
        stats: RollingStats,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._skipped = skipped
        self._discovery = discovery
        self._jobs = jobs
        self._stats = stats
        self._clock = clock
        self._started_at = clock()

    def replace_settings(self, config: Config, skipped: Sequence[SkippedBackend]) -> None:
        """Replace the settings after a reload."""
        self._config = config
        self._skipped = skipped

    def heartbeat(self) -> Heartbeat:
        """Return the current load, for the coordinator."""
        stats = self._stats.snapshot()
        return Heartbeat(
            in_flight=self._jobs.in_flight,
            queued=self._jobs.queued,
            capacity=clamp_count(self._jobs.max_concurrent),
            tokens_per_second=valid_measure(stats.tokens_per_second),
            first_byte_p50_ms=valid_measure(stats.first_byte_p50_ms),
            first_byte_p95_ms=valid_measure(stats.first_byte_p95_ms),
            error_rate=valid_share(stats.error_rate),
            backends=backend_loads(self._discovery.monitors),
        )

    def status(
        self,
        *,
        url: str,
        link: str,
        welcomed_at: float | None,
        last_disconnect: str | None,
        messages: CoordinatorMessages,
        draining: bool,
    ) -> StatusSnapshot:
        """Return the status for the operator; the arguments describe the link and the drain."""
        now = self._clock()
        last_job_at = self._jobs.last_job_at
        return StatusSnapshot(
            version=agent_version(),
            uptime_s=now - self._started_at,
            link=link,
            coordinator_url=url,
            last_welcome_age_s=None if welcomed_at is None else now - welcomed_at,
            last_disconnect=last_disconnect,
            routing=messages.routing,
            coordinator_draining=messages.draining,
            notices=messages.notices(),
            last_job_age_s=None if last_job_at is None else now - last_job_at,
            draining=draining,
            in_flight=self._jobs.in_flight,
            capacity=self._jobs.max_concurrent,
            token_limit_wait_s=self._jobs.token_limit_wait_s,
            backends=[*self._backends_in_use(), *self._backends_skipped()],
            stats=self._stats.snapshot(),
        )

    def _backends_in_use(self) -> list[BackendStatus]:
        return [
            BackendStatus(
                id=monitor.backend.id,
                kind=monitor.backend.kind,
                healthy=monitor.serves,
                latency_ms=monitor.state.health.latency_ms,
                last_error=monitor.state.health.last_error or monitor.admission.reason or None,
                models=len(monitor.state.models),
            )
            for monitor in self._discovery.monitors
        ]

    def _backends_skipped(self) -> list[BackendStatus]:
        return [
            BackendStatus(
                id=skipped.backend_id,
                kind=skipped.kind,
                healthy=False,
                last_error=f"skipped: {skipped.reason}",
            )
            for skipped in self._skipped
        ]


def count_job(record: JobRecord, stats: RollingStats, metrics: Metrics) -> None:
    """Count an ended job in the statistics and in the metrics; called once for each job."""
    end = record.end
    code = known_code(end.code) if isinstance(end, JobError) else None
    usage = end.usage
    stats.job_ended(output_tokens=usage.output_tokens, first_byte_s=record.first_byte_s, code=code)
    metrics.job_ended(
        code=code,
        wire_format=record.wire_format,
        kind=record.backend_kind or None,
        relayed_bytes=end.total_bytes,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        first_byte_s=record.first_byte_s,
        attempts=record.attempts,
    )
