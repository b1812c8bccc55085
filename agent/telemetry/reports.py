"""Builds the heartbeat and the status of a running agent, and counts its ended jobs."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice

from provider_agent.agent.availability.hours import ServingHours
from provider_agent.agent.availability.status import availability_status
from provider_agent.agent.backends.configured import SkippedBackend
from provider_agent.agent.backends.discovery import Discovery
from provider_agent.agent.config import Config
from provider_agent.agent.config.addresses import shown_url
from provider_agent.agent.jobs.job_record import JobRecord
from provider_agent.agent.jobs.running import Jobs
from provider_agent.agent.link.coordinator_messages import CoordinatorMessages
from provider_agent.agent.telemetry.backend_loads import backend_loads
from provider_agent.agent.telemetry.job_history import JobHistory
from provider_agent.agent.telemetry.metrics import MILLION, Metrics
from provider_agent.agent.telemetry.remedies import REMEDIES
from provider_agent.agent.telemetry.rolling_stats import RollingStats
from provider_agent.agent.telemetry.running_jobs import RunningJobs
from provider_agent.agent.telemetry.status import (
    MAX_OFFERED,
    NO_LEDGER,
    BackendStatus,
    LedgerStatus,
    RefusedJobStatus,
    StatusSnapshot,
    Totals,
)
from provider_agent.agent.version import agent_version, is_compiled
from provider_agent.protocol.errors import known_code
from provider_agent.protocol.field_values import clamp_count, valid_measure, valid_share
from provider_agent.protocol.frames import Heartbeat, JobError
from provider_agent.protocol.limits import SUBPROTOCOL


class Reports:
    """Builds heartbeats and status snapshots from the current state of the agent's parts.

    Args:
        config: all settings.
        skipped: configured backends that are not used.
        discovery: the pool of the backends that are used.
        jobs: the running jobs.
        stats: statistics of the last 60 seconds.
        metrics: counters since the start; with the same clock.
        history: the last jobs and the last hour.
        hours: when the agent and its backends may serve.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        config: Config,
        skipped: Sequence[SkippedBackend],
        discovery: Discovery,
        jobs: Jobs,
        stats: RollingStats,
        metrics: Metrics,
        history: JobHistory,
        hours: ServingHours,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hours = hours
        self._config = config
        self._skipped = skipped
        self._discovery = discovery
        self._jobs = jobs
        self._stats = stats
        self._metrics = metrics
        self._history = history
        self._running = RunningJobs(clock)
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
        dialect: str = SUBPROTOCOL,
        ledger: LedgerStatus = NO_LEDGER,
    ) -> StatusSnapshot:
        """Return the status for the operator; the arguments describe what `Reports` cannot see."""
        now = self._clock()
        last_job_at = self._jobs.last_job_at
        failure = self._stats.last_failure
        return StatusSnapshot(
            version=agent_version(),
            compiled=is_compiled(),
            uptime_s=now - self._started_at,
            link=link,
            coordinator_url=shown_url(url),
            dialect=dialect,
            last_welcome_age_s=None if welcomed_at is None else now - welcomed_at,
            last_disconnect=last_disconnect,
            routing=messages.routing,
            coordinator_draining=messages.draining,
            notices=messages.notices(),
            last_job_age_s=None if last_job_at is None else now - last_job_at,
            last_error_age_s=None if failure is None else now - failure.at,
            last_error_code=None if failure is None else failure.code,
            draining=draining,
            in_flight=self._jobs.in_flight,
            capacity=self._jobs.max_concurrent,
            token_limit_wait_s=self._jobs.token_limit_wait_s,
            backends=[*self._backends_in_use(), *self._backends_skipped()],
            stats=self._stats.snapshot(),
            offered=list(islice(self._jobs.offered, MAX_OFFERED)),
            totals=_totals(self._metrics),
            last_refusals=[
                RefusedJobStatus(
                    reason=one.reason,
                    model_id=one.model_id,
                    age_s=now - one.at,
                    remedy=REMEDIES[one.reason],
                )
                for one in reversed(self._metrics.refused)
            ],
            running=self._running.snapshot(self._jobs.running, self._history.bytes_per_token()),
            last_jobs=self._history.last_jobs(),
            last_hour=self._history.last_hour(),
            availability=availability_status(self._hours),
            ledger=ledger,
        )

    def _backends_in_use(self) -> list[BackendStatus]:
        queued = Counter(
            job.backend_id for job in self._jobs.running if not job.channel.stream.written
        )
        return [
            BackendStatus(
                id=monitor.backend.id,
                kind=monitor.backend.kind,
                healthy=monitor.serves,
                latency_ms=monitor.state.health.latency_ms,
                last_error=monitor.state.health.last_error or monitor.admission.reason or None,
                models=len(monitor.state.models),
                running=monitor.running,
                queued=queued[monitor.backend.id],
                capacity=monitor.backend.max_concurrent,
                availability=availability_status(self._hours, monitor.backend.id),
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


def _totals(metrics: Metrics) -> Totals:
    jobs: Counter[str] = Counter()
    earned: Counter[str] = Counter()
    for (code, _, _, _, model_id), totals in metrics.jobs.items():
        jobs[code] += totals.jobs
        if totals.earned is not None:
            earned[model_id] += totals.earned
    return Totals(
        jobs=jobs,
        refusals={reason: count for reason, count in metrics.refusals.items() if count},
        earned={model_id: round(amount / MILLION) for model_id, amount in earned.items()},
    )


def count_job(
    record: JobRecord, stats: RollingStats, metrics: Metrics, history: JobHistory
) -> None:
    """Count an ended job in statistics, metrics and history; called once for each job."""
    end = record.end
    code = known_code(end.code) if isinstance(end, JobError) else None
    stats.job_ended(
        output_tokens=end.usage.output_tokens, first_byte_s=record.first_byte_s, code=code
    )
    history.job_ended(record, code, metrics.job_ended(record, code))
