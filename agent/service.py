"""The running agent: it connects backends, jobs and link, owns all tasks, and stops them.

::

    serving ──SIGTERM, SIGINT──▶ draining ──▶ stopped        a second signal: stopped immediately

The long-lived tasks are named and owned by the one `TaskGroup` of `Service.run`.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from provider_agent.agent.availability.hours import ServingHours
from provider_agent.agent.backends.capabilities import agent_limits, metadata, model_offers
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.backends.discovery import Discovery
from provider_agent.agent.backends.offer_groups import ServedModel
from provider_agent.agent.backends.offer_warnings import OfferWarningLog, offer_warnings
from provider_agent.agent.config import Config
from provider_agent.agent.config.schedules import schedule_of
from provider_agent.agent.control.commands import Commands
from provider_agent.agent.control.local_control import LocalControl
from provider_agent.agent.control.pause_store import PauseStore
from provider_agent.agent.control.signature import SignatureCheck
from provider_agent.agent.identity.key import Identity
from provider_agent.agent.jobs.drain import drain, stop_immediately, stop_jobs
from provider_agent.agent.jobs.job_record import JobRecord
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.jobs.receipt_issuer import ReceiptIssuer
from provider_agent.agent.jobs.running import Jobs
from provider_agent.agent.link.advertiser import Advertiser
from provider_agent.agent.link.state import LinkState
from provider_agent.agent.link.uplink import Uplink
from provider_agent.agent.reload.effects import Reload, decide_reload
from provider_agent.agent.serving_link import ServingLink
from provider_agent.agent.slow_consumer_checks import SlowConsumerChecks
from provider_agent.agent.telemetry.heartbeats import Heartbeats
from provider_agent.agent.telemetry.job_history import JobHistory
from provider_agent.agent.telemetry.job_outputs import JobOutputs
from provider_agent.agent.telemetry.metrics import Metrics
from provider_agent.agent.telemetry.reports import Reports, count_job
from provider_agent.agent.telemetry.rolling_stats import RollingStats
from provider_agent.agent.telemetry.status import StatusSnapshot
from provider_agent.agent.telemetry.status_server import StatusServer
from provider_agent.agent.telemetry.traces.settings import TraceSettings
from provider_agent.event_log import EventLogger
from provider_agent.protocol.errors import LastError
from provider_agent.protocol.frames import Capabilities, ModelOffer, Welcome

log = EventLogger(__name__)

FIRST_CHECKS_S: Final = 5.0
"""The longest time that the first dial waits for the first health checks of the backends."""

STATUS_DELAY_S: Final = 0.5
"""The longest time that the status server waits for the first link. Its imports would delay the
link; probes often time out after a second."""

EXIT_OK: Final = 0
EXIT_FORCED: Final = 130
"""A second signal stopped the agent and cancelled its jobs."""
EXIT_REFUSED: Final = 78
"""Every address failed permanently, for example because the coordinator rejects this agent: a
restart does not help until the operator changes something (EX_CONFIG of sysexits.h)."""
EXIT_UNDELIVERED: Final = 75
"""The drain ended before every response and end was delivered (EX_TEMPFAIL of sysexits.h)."""


class Service:
    """The running agent.

    Args:
        config: all settings.
        identity: the agent's key.
        backends: the configured backends; the service closes them when they are no longer used.
        clock: monotonic, in seconds.
        wall_clock: POSIX time in seconds.
        uniform: random, in [0, 1).
        replace: whether to replace a connected agent with the same key.
        trace_settings: how to export traces of jobs; None: not at all.

    Attributes:
        backends: the current backends.
        changed: set when the link, a pause, the schedule or a drain has changed the status; its
            only reader clears it.
    """

    def __init__(
        self,
        config: Config,
        identity: Identity,
        backends: Backends,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        uniform: Callable[[], float] = random.random,
        replace: bool = False,
        trace_settings: TraceSettings | None = None,
    ) -> None:
        self._config = config
        self.backends = backends
        self.changed = asyncio.Event()
        self._clock = clock
        self._wall_clock = wall_clock
        self.outbox = Outbox()
        self.metrics = Metrics(clock)
        self._stats = stats = RollingStats(clock)
        self._history = history = JobHistory(clock)
        self._discovery = Discovery(
            backends,
            self._models_changed,
            pricing=config.pricing,
            interval_s=config.discovery.interval_s,
            liveness_interval_s=config.discovery.liveness_interval_s,
            clock=clock,
            uniform=uniform,
        )
        self._fingerprint = identity.fingerprint
        self._outputs = JobOutputs(
            config.observability.ledger_path,
            trace_settings,
            self.metrics,
            identity.fingerprint,
            clock,
        )
        always_hash = config.observability.ledger_path is not None
        self._receipts = ReceiptIssuer(identity.sign, always_hash=always_hash)
        self.jobs = Jobs(
            self._discovery,
            self.outbox,
            config.limits.max_concurrent,
            on_end=self._job_ended,
            clock=clock,
            tokens_per_minute=config.limits.max_tokens_per_minute,
            receipts=self._receipts,
            traced=self._outputs.traced,
        )
        self.uplink = self._new_uplink(identity, uniform, replace=replace)
        pauses = PauseStore(config.identity.key_path)
        self.hours = ServingHours(
            schedule_of(config.schedule),
            backends.schedules,
            pauses.load(),
            on_backends=self._discovery.suspend,
            on_change=self.changed.set,
            wall_clock=wall_clock,
        )
        commands = Commands(
            self.hours,
            pauses,
            backends=self._discovery.kinds,
            in_flight=lambda: self.jobs.in_flight,
            stopping=lambda: self.stopping,
            wall_clock=wall_clock,
        )
        self._control = LocalControl(SignatureCheck(identity.public_key, wall_clock), commands)
        self._link = ServingLink(
            self.uplink, self.jobs, self.outbox, self.hours, self._drain_timeout_s, clock
        )
        self.advertiser = Advertiser(self.outbox, self.uplink.connected, self._capabilities)
        self._slow_consumers = SlowConsumerChecks(
            self.uplink, self.jobs, self.outbox, lambda: self._config.limits.slow_consumer_s
        )
        self._reports = Reports(
            config,
            backends.skipped,
            self._discovery,
            self.jobs,
            stats,
            self.metrics,
            history,
            self.hours,
            clock,
        )
        self._warnings = OfferWarningLog()
        self._heartbeats = Heartbeats(self.outbox, self.uplink.connected, self._reports)
        self._stop_requested = asyncio.Event()
        self._force_requested = asyncio.Event()
        self._exit_code = EXIT_OK

    def _last_error(self) -> LastError | None:
        failure = self._stats.last_failure
        if failure is None:
            return None
        return LastError(self._wall_clock() - (self._clock() - failure.at), failure.code)

    def _new_uplink(
        self, identity: Identity, uniform: Callable[[], float], *, replace: bool
    ) -> Uplink:
        return Uplink(
            self._config.coordinator,
            identity,
            self._config.identity.key_path,
            self.jobs,
            self.outbox,
            on_welcome=self._welcomed,
            on_retry=self.metrics.reconnecting,
            on_notice=self.metrics.notice_received,
            on_state=self.changed.set,
            clock=self._clock,
            uniform=uniform,
            replace=replace,
            last_error=self._last_error,
        )

    def __repr__(self) -> str:
        return f"<Service {self.uplink!r} {self.jobs!r} {self.outbox!r}>"

    @property
    def stopping(self) -> bool:
        """Whether the agent is draining or stopping."""
        return self._stop_requested.is_set()

    @property
    def busy_ids(self) -> frozenset[str]:
        """Ids of the backends with running jobs, removed ones included."""
        return self._discovery.busy_ids

    def offers(self) -> list[ModelOffer]:
        """Return the models that the agent offers now."""
        return model_offers(self._discovery.served_models())

    def status(self) -> StatusSnapshot:
        """Return the current state of the whole agent."""
        return self._reports.status(
            url=self.uplink.url,
            dialect=self.uplink.dialect,
            link=self.uplink.state,
            welcomed_at=self.uplink.welcomed_at,
            last_disconnect=self.uplink.last_disconnect,
            messages=self.uplink.messages,
            draining=self.stopping,
            ledger=self._outputs.ledger_status(),
        )

    def _drain_timeout_s(self) -> float:
        return self._config.limits.drain_timeout_s

    def stop(self) -> None:
        """Drain and stop; a second call stops immediately. For `loop.add_signal_handler`."""
        if self._stop_requested.is_set():
            self._force_requested.set()
        self._stop_requested.set()
        self.changed.set()

    def reload(self, config: Config, backends: Backends) -> Reload:
        """Apply new settings.

        Args:
            config: the new settings, validated as for a new agent.
            backends: made from `config`; an unchanged one is the same object as in `self.backends`.

        Returns:
            The effective settings, and when each changed key takes effect.
        """
        result = decide_reload(self._config, config, other_backends=backends != self.backends)
        if not result.changes_nothing:
            self._config, self.backends = result.config, backends
            self.uplink.config = result.config.coordinator
            self.jobs.set_limits(config.limits.max_concurrent, config.limits.max_tokens_per_minute)
            self._discovery.set_intervals(
                config.discovery.interval_s, config.discovery.liveness_interval_s
            )
            self._warnings.reset()
            self._discovery.set_pricing(result.config.pricing)
            self._discovery.replace_backends(backends)
            self.hours.replace(schedule_of(config.schedule), backends.schedules)
            self._reports.replace_settings(result.config, backends.skipped)
        return result

    async def run(self) -> int:
        """Serve until `stop`, or until no coordinator accepts the agent; returns the exit code.

        Cancelling it stops immediately, without a drain.

        Raises:
            StatusServerError: the status server cannot listen on its address.
            LedgerError: the ledger cannot be written.
        """
        status_server = self._status_server()
        try:
            self._outputs.open()
            if status_server is not None:
                status_server.listen()
            self.hours.check()  # before the first dial
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._keep_connected(), name="link"),
                    group.create_task(self._heartbeats.run(), name="heartbeat"),
                    group.create_task(self._slow_consumers.run(), name="slow consumers"),
                    group.create_task(self._discovery.run(), name="discovery"),
                    group.create_task(self._outputs.run(), name="ledger"),
                    group.create_task(self.hours.run(), name="serving hours"),
                ]
                if status_server is not None:
                    serving = self._serve_status(status_server)
                    tasks.append(group.create_task(serving, name="status server"))
                group.create_task(self._stop_on_request(tasks), name="stop")
        finally:
            self.uplink.state = LinkState.STOPPED
            self.uplink.abandon_session()
            await stop_jobs(self.jobs, "the agent was stopped")
            self.advertiser.cancel()
            await self._discovery.close()
            if status_server is not None:
                await status_server.stop()
            await self._outputs.close()
        return self._exit_code

    def _status_server(self) -> StatusServer | None:
        settings = self._config.observability
        if not settings.prometheus_addr:
            return None
        return StatusServer(
            settings.prometheus_addr,
            self.status,
            self.metrics,
            self._fingerprint,
            settings.allowed_hosts,
            self._control,
        )

    # --- tasks ------------------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        await self._discovery.wait_for_first_checks(FIRST_CHECKS_S)
        await self._link.run()
        # While the agent stops, the drain decides the exit code: it reports what was not delivered.
        if not self.stopping:
            self._exit_code = EXIT_REFUSED
        self._stop_requested.set()  # not `stop`, which counts as the second signal while draining

    async def _serve_status(self, server: StatusServer) -> None:
        """Serve the status from the first connection on, but let the first link open before.

        Serving imports aiohttp: 14 MB of memory, which many agents never need.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(STATUS_DELAY_S):
                await self.uplink.connected.wait()
        await server.wait_for_connection()
        await server.serve()
        await self.metrics.loop_lag.measure()  # only an agent that is watched needs it

    async def _stop_on_request(self, tasks: list[asyncio.Task[None]]) -> None:
        await self._stop_requested.wait()
        limit_s = self._drain_timeout_s()
        lost_before = self.outbox.lost_jobs
        self._link.announce_stop(limit_s)
        draining = asyncio.create_task(drain(self.jobs, self.outbox, limit_s), name="drain")
        force = asyncio.create_task(self._force_requested.wait(), name="force")
        try:
            await asyncio.wait({draining, force}, return_when=asyncio.FIRST_COMPLETED)
            if not draining.done():
                self._exit_code = EXIT_FORCED
                draining.cancel()
                await stop_immediately(self.jobs, self.outbox, lost_before)
        finally:
            for task in (draining, force, *tasks):
                task.cancel()
            await asyncio.gather(draining, force, return_exceptions=True)
        # `result` raises if the drain itself failed.
        if not draining.cancelled() and not draining.result() and self._exit_code == EXIT_OK:
            self._exit_code = EXIT_UNDELIVERED

    # --- callbacks --------------------------------------------------------------------------------

    def _welcomed(self, welcome: Welcome) -> None:
        self.metrics.resumed(sum(not job.ended for job in welcome.resumed))
        self._receipts.negotiated(welcome.features)
        self._slow_consumers.welcomed()
        self._heartbeats.welcomed(welcome.heartbeat_ms / 1000)
        self.advertiser.send()
        self._link.announce_draining()

    def _job_ended(self, record: JobRecord) -> None:
        count_job(record, self._stats, self.metrics, self._history)
        self._outputs.add(record)

    def _models_changed(self) -> None:
        self.advertiser.schedule()

    def _capabilities(self, revision: int) -> Capabilities:
        serving = self._discovery.served_models()
        offers, limits = model_offers(serving), agent_limits(self._config)
        self._log_warnings(serving)
        self.jobs.set_prices(offers)
        return Capabilities(revision, offers, limits, dict(metadata(self._config)))

    def _log_warnings(self, serving: Sequence[ServedModel]) -> None:
        try:
            self._warnings.report(offer_warnings(serving, self._discovery.states, self._config))
        except Exception:
            log.exception("offer warnings failed")
