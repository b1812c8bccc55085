"""The running agent: its tasks, its state, and how it stops.

::

    serving ──SIGTERM, SIGINT──▶ draining ──▶ stopped        a second signal: stopped at once

Every task is long-lived, named and owned by the one `TaskGroup` of `Service.run`.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from provider_agent.agent.backends.capabilities import agent_limits, metadata, model_offers
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.backends.discovery import Discovery
from provider_agent.agent.config import Config
from provider_agent.agent.identity.key import Identity
from provider_agent.agent.jobs.drain import drain, stop_at_once, stop_jobs
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.jobs.running import Jobs
from provider_agent.agent.jobs.slow_consumers import SlowConsumers
from provider_agent.agent.link.state import LinkState
from provider_agent.agent.link.uplink import Uplink
from provider_agent.agent.reload.effects import Reload, decide_reload
from provider_agent.agent.telemetry.metrics import Metrics
from provider_agent.agent.telemetry.reports import Reports, count_job
from provider_agent.agent.telemetry.rolling_stats import RollingStats
from provider_agent.agent.telemetry.status import StatusSnapshot
from provider_agent.agent.telemetry.status_server import StatusServer
from provider_agent.event_log import EventLogger
from provider_agent.protocol.frames import Capabilities, Draining, ModelOffer, Welcome

log = EventLogger(__name__)

FIRST_LOOK_S: Final = 5.0
"""How long to wait for the backends' first answers before dialling without them."""

DEBOUNCE_S: Final = 0.25
"""How long changes of the offer are collected before the coordinator is told."""

SLOW_LOOKS: Final = 4
"""How often a waiting consumer is looked at within the time it has."""

EXIT_OK: Final = 0
EXIT_FORCED: Final = 130
"""Stopped by a second signal, with jobs cut off."""
EXIT_REFUSED: Final = 78
"""The coordinator will not have this agent, or speaks another protocol: starting again will not
help until the operator changes something (EX_CONFIG of sysexits.h)."""


class Service:
    """One agent.

    Args:
        config: all settings.
        identity: the agent's key.
        backends: what the configuration's backends became; closed when they are no longer used.
        clock: monotonic, in seconds.
        uniform: random, in [0, 1).
    """

    def __init__(
        self,
        config: Config,
        identity: Identity,
        backends: Backends,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self.backends = backends
        self._clock = clock
        self.outbox = Outbox()
        self.metrics = Metrics()
        stats = RollingStats(clock)
        self._discovery = Discovery(
            backends,
            self._offer_changed,
            interval_s=config.discovery.interval_s,
            clock=clock,
            uniform=uniform,
        )
        self.jobs = Jobs(
            self._discovery,
            self.outbox,
            config.limits.max_concurrent,
            on_end=lambda record: count_job(record, stats, self.metrics),
            clock=clock,
            tokens_per_minute=config.limits.max_tokens_per_minute,
        )
        self.uplink = Uplink(
            config.coordinator,
            identity,
            self.jobs,
            self.outbox,
            on_welcome=self._welcomed,
            on_retry=self.metrics.reconnecting,
            clock=clock,
            uniform=uniform,
        )
        self._slow_consumers = SlowConsumers()
        self._advertising: asyncio.TimerHandle | None = None
        self._reports = Reports(config, backends.skipped, self._discovery, self.jobs, stats, clock)
        self._revision = 0
        self._heartbeat_s = 0.0
        self._fresh_link = asyncio.Event()
        self._drain_ends_at: float | None = None
        self._stop_requested = asyncio.Event()
        self._force_requested = asyncio.Event()
        self._exit_code = EXIT_OK

    def __repr__(self) -> str:
        return f"<Service {self.uplink!r} {self.jobs!r} {self.outbox!r}>"

    # --- life ------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Be an agent until told to stop; returns the process's exit code.

        Cancelling it stops at once, without the courtesy of a drain.

        Raises:
            StatusServerError: the status server's address is taken.
        """
        status_server = self._status_server()
        try:
            if status_server is not None:
                await status_server.start()
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._keep_connected(), name="link"),
                    group.create_task(self._beat(), name="heartbeat"),
                    group.create_task(self._watch_consumers(), name="slow consumers"),
                    group.create_task(self._discovery.run(), name="discovery"),
                ]
                group.create_task(self._stop_when_asked(tasks), name="stop")
        finally:
            self.uplink.state = LinkState.STOPPED
            self.uplink.abandon_session()
            await stop_jobs(self.jobs, "the agent was stopped")
            if self._advertising is not None:
                self._advertising.cancel()
                self._advertising = None
            await self._discovery.close()
            if status_server is not None:
                await status_server.stop()
        return self._exit_code

    def stop(self) -> None:
        """Drain and stop; called a second time, stop at once. Safe in a signal handler."""
        if self._stop_requested.is_set():
            self._force_requested.set()
        self._stop_requested.set()

    @property
    def stopping(self) -> bool:
        """Whether it has been told to stop."""
        return self._stop_requested.is_set()

    @property
    def busy_ids(self) -> frozenset[str]:
        """Ids of backends under which jobs run, in use or not."""
        return self._discovery.busy_ids

    def reload(self, config: Config, backends: Backends) -> Reload:
        """Take over new settings.

        Args:
            config: checked, as for a new agent.
            backends: made from it, with those of `backends` that did not change.

        Returns:
            What is in force now, and what will be when.
        """
        done = decide_reload(self._config, config, other_backends=backends != self.backends)
        if not done.changes_nothing:
            self._config, self.backends = done.config, backends
            self.uplink.config = done.config.coordinator
            self.jobs.set_limits(config.limits.max_concurrent, config.limits.max_tokens_per_minute)
            self._discovery.set_interval(config.discovery.interval_s)
            self._discovery.replace_backends(backends)
            self._reports.use(done.config, backends.skipped)
        return done

    def _status_server(self) -> StatusServer | None:
        address = self._config.observability.prometheus_addr
        if not address:
            return None
        self.metrics.watch(self.status)
        return StatusServer(address, self.status, self.metrics)

    async def _stop_when_asked(self, tasks: list[asyncio.Task[None]]) -> None:
        await self._stop_requested.wait()
        limit_s = self._config.limits.drain_timeout_s
        self._drain_ends_at = self._clock() + limit_s
        self._say_draining()
        draining = asyncio.create_task(
            drain(self.jobs, self.outbox, self.uplink.connected, limit_s), name="drain"
        )
        force = asyncio.create_task(self._force_requested.wait(), name="force")
        try:
            await asyncio.wait({draining, force}, return_when=asyncio.FIRST_COMPLETED)
            if not draining.done():
                self._exit_code = EXIT_FORCED
                draining.cancel()
                await stop_at_once(self.jobs, self.outbox)
        finally:
            for task in (draining, force, *tasks):
                task.cancel()
            await asyncio.gather(draining, force, return_exceptions=True)
        if not draining.cancelled():
            draining.result()  # a defect in it must not look like an orderly end

    def _say_draining(self) -> None:
        """While it drains: tell the coordinator how long the agent still is there."""
        if self._drain_ends_at is not None:
            left_s = max(0.0, self._drain_ends_at - self._clock())
            self.outbox.put(Draining(round(left_s * 1000)))

    async def _keep_connected(self) -> None:
        await self._discovery.wait_for_first_checks(FIRST_LOOK_S)
        await self.uplink.run()
        self._exit_code = EXIT_REFUSED
        self._stop_requested.set()  # not `stop`: while draining that would be the second signal

    def _welcomed(self, welcome: Welcome) -> None:
        """A new link: say what is on offer."""
        self.metrics.resumed(len(welcome.resumed))
        self._heartbeat_s = welcome.heartbeat_ms / 1000
        self._slow_consumers.reset()  # without a link nobody could acknowledge anything
        self._fresh_link.set()
        self._advertise()
        self._say_draining()

    # --- what the agent says ---------------------------------------------------------------------

    def _offer_changed(self) -> None:
        """Tell the coordinator soon: changes often come in a row, as when a machine starts."""
        if self._advertising is None:
            loop = asyncio.get_running_loop()
            self._advertising = loop.call_later(DEBOUNCE_S, self._advertise)

    def _advertise(self) -> None:
        """Tell the coordinator what is on offer now."""
        if self._advertising is not None:
            self._advertising.cancel()
            self._advertising = None
        if not self.uplink.connected.is_set():
            return
        self._revision += 1
        models = self.offers()
        limits = agent_limits(self._config)
        self.outbox.put(Capabilities(self._revision, models, limits, dict(metadata(self._config))))

    async def _beat(self) -> None:
        while True:
            await self.uplink.connected.wait()
            self._fresh_link.clear()
            self.outbox.put(self._reports.heartbeat())
            with suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat_s):
                    await self._fresh_link.wait()  # perhaps with another interval

    async def _watch_consumers(self) -> None:
        """A consumer that takes nothing must not hold memory and a machine for ever."""
        while True:
            await self.uplink.connected.wait()
            limit_s = self._config.limits.slow_consumer_s
            streams = self.outbox.streams
            for stream in self._slow_consumers.stalled(
                streams, self.uplink.last_activity_at, limit_s
            ):
                self.jobs.end_stalled(stream)
            await asyncio.sleep(limit_s / SLOW_LOOKS)

    def offers(self) -> list[ModelOffer]:
        """The models that are offered now."""
        return model_offers(self._discovery.served_models(), self._config)

    def status(self) -> StatusSnapshot:
        """The whole agent at this moment."""
        return self._reports.status(
            url=self.uplink.url,
            link=self.uplink.state,
            welcomed_at=self.uplink.welcomed_at,
            last_rejection=self.uplink.last_rejection,
            draining=self._stop_requested.is_set(),
        )
