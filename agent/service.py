"""The running agent: its tasks, its state, and how it stops.

::

    starting ──▶ connecting ◀──▶ connected
                     │               │        SIGTERM, SIGINT
                     └───────┬───────┘
                             ▼
                          draining ──▶ stopped        a second signal: stopped at once

Every task is long-lived, named and owned by the one `TaskGroup` of `Service.run`.
"""

import asyncio
import logging
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import Final

from agent.backends import Backends
from agent.backoff import Fatal, LinkEnd, after
from agent.capabilities import agent_limits, metadata, model_offers
from agent.config import Config
from agent.dial import DialSettings
from agent.discovery import Discovery
from agent.drain import drain, stop_at_once, stop_jobs
from agent.guard import Guard
from agent.identity import Identity
from agent.jobs import JobRecord, Jobs
from agent.link import Link
from agent.outbox import Outbox
from agent.reports import Reports, count_job
from agent.resumption import Resumption
from agent.slow_consumers import SlowConsumers
from agent.telemetry.figures import Figures
from agent.telemetry.metrics import Metrics
from agent.telemetry.status import LINK_CONNECTED, StatusSnapshot
from agent.telemetry.status_server import StatusServer
from agent.version import agent_version
from protocol.frames import (
    Ack,
    Cancel,
    Capabilities,
    Drain,
    Draining,
    Job,
    JobResult,
    ModelOffer,
    Welcome,
)
from protocol.session import AgentSession

log = logging.getLogger("provider_agent.service")

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


class LinkState(StrEnum):
    """Where the link stands, for people."""

    STARTING = "starting"
    CONNECTING = "connecting"
    CONNECTED = LINK_CONNECTED
    STOPPED = "stopped"


class Service:
    """One agent.

    Args:
        config: all settings.
        identity: the agent's key.
        backends: what the configuration's backends became; closed when `run` ends.
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
        self._identity = identity
        self._backends = backends
        self._clock = clock
        self._uniform = uniform
        self._instance_id = os.urandom(8).hex()
        self.outbox = Outbox()
        self.metrics = Metrics()
        self._figures = Figures(clock)
        self._discovery = Discovery(
            backends.usable,
            backends.markups,
            self._offer_changed,
            guards=_guards(backends, clock),
            in_flight=lambda backend_id: self.jobs.on_backend(backend_id),
            interval_s=config.discovery.interval_s,
            uniform=uniform,
        )
        self.jobs = Jobs(
            self._discovery,
            self.outbox,
            config.limits.max_concurrent,
            on_end=self._job_ended,
            clock=clock,
            tokens_per_minute=config.limits.max_tokens_per_minute,
        )
        self._resumption = Resumption(
            self.outbox,
            lambda job_id: self.jobs.cancel(job_id, "the coordinator does not go on with it"),
        )
        self._slow_consumers = SlowConsumers()
        self._advertising: asyncio.TimerHandle | None = None
        self._reports = Reports(
            config, backends.skipped, self._discovery, self.jobs, self._figures, clock
        )
        self._state = LinkState.STARTING
        self._revision = 0
        self._heartbeat_s = 0.0
        self._welcomed = asyncio.Event()
        self._welcomed_at: float | None = None
        self._finished_jobs = 0
        self._drain_ends_at = 0.0
        self._last_rejection: str | None = None
        self._stop_requested = asyncio.Event()
        self._force_requested = asyncio.Event()
        self._exit_code = EXIT_OK
        self.connected = asyncio.Event()
        """Set while the coordinator has welcomed the agent."""

    def __repr__(self) -> str:
        return f"<Service {self._state} {self.jobs!r} {self.outbox!r}>"

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
            self._state = LinkState.STOPPED
            self._resumption.give_up()
            await stop_jobs(self.jobs, "the agent was stopped")
            if self._advertising is not None:
                self._advertising.cancel()
                self._advertising = None
            await self._close_backends()
            if status_server is not None:
                await status_server.stop()
        return self._exit_code

    def stop(self) -> None:
        """Drain and stop; called a second time, stop at once. Safe in a signal handler."""
        if self._stop_requested.is_set():
            self._force_requested.set()
        self._stop_requested.set()

    def _status_server(self) -> StatusServer | None:
        address = self._config.observability.prometheus_addr
        if not address:
            return None
        self.metrics.watch(self.status)
        return StatusServer(address, self.status, self.metrics)

    async def _close_backends(self) -> None:
        for backend in self._backends.usable:
            try:
                await backend.close()
            except Exception:
                # One adapter's defect must not keep the others' connections open.
                log.exception("an adapter failed", extra={"fields": {"backend": backend.id}})

    async def _stop_when_asked(self, tasks: list[asyncio.Task[None]]) -> None:
        await self._stop_requested.wait()
        limit_s = self._config.limits.drain_timeout_s
        self._drain_ends_at = self._clock() + limit_s
        self._say_draining()
        draining = asyncio.create_task(
            drain(self.jobs, self.outbox, self.connected, limit_s), name="drain"
        )
        force = asyncio.create_task(self._force_requested.wait(), name="force")
        await asyncio.wait({draining, force}, return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            self._exit_code = EXIT_FORCED
            draining.cancel()
            await stop_at_once(self.jobs, self.outbox)
        for task in (draining, force, *tasks):
            task.cancel()
        await asyncio.gather(draining, force, return_exceptions=True)

    def _say_draining(self) -> None:
        """Tell the coordinator how long the agent still is there."""
        left_s = max(0.0, self._drain_ends_at - self._clock())
        self.outbox.put(Draining(round(left_s * 1000)))

    # --- the link --------------------------------------------------------------------------------

    async def _keep_connected(self) -> None:
        """Dial, and dial again as `backoff.after` decides, until it is pointless."""
        await self._discovery.wait_for_first_round(FIRST_LOOK_S)
        settings = DialSettings(
            url=self._config.coordinator.url,
            token_file=self._config.coordinator.token_file,
            ca_file=self._config.coordinator.ca_file,
            proxy=self._config.coordinator.proxy,
        )
        attempt = 0
        while True:
            self._state = LinkState.CONNECTING
            link = Link(settings, self._new_session, self.outbox, self)
            end = await link.run()
            welcomed_s = self._link_ended(end)
            decision = after(end, attempt, welcomed_s, self._uniform)
            if isinstance(decision, Fatal):
                self._give_up(end, decision)
                return
            attempt = decision.attempt
            fields = {"reason": end.detail, "retry_in_s": round(decision.after_s, 1)}
            log.warning("not connected", extra={"fields": fields})
            self.metrics.reconnecting(end.end)
            await asyncio.sleep(decision.after_s)

    def _new_session(self, authority: str) -> AgentSession:
        session_id, live_jobs = self._resumption.offer()
        return AgentSession(
            authority=authority,
            public_key=self._identity.public_key,
            sign=self._identity.sign,
            agent_version=agent_version(),
            instance_id=self._instance_id,
            enrollment_code=self._config.coordinator.enrollment_code or "",
            session_id=session_id,
            live_jobs=live_jobs,
        )

    def _link_ended(self, end: LinkEnd) -> float | None:
        """The jobs go on and wait for the next link; returns how long this one was welcomed."""
        self._last_rejection = end.detail
        self.outbox.drop_control()
        self._slow_consumers.reset()
        self._resumption.lost()
        if not self.connected.is_set() or self._welcomed_at is None:
            return None
        self.connected.clear()
        return self._clock() - self._welcomed_at

    def _give_up(self, end: LinkEnd, decision: Fatal) -> None:
        fields = {"reason": end.detail, "what_to_do": decision.hint}
        log.error("the coordinator cannot be used", extra={"fields": fields})
        self._exit_code = EXIT_REFUSED
        self._resumption.give_up()
        self._stop_requested.set()  # not `stop`: while draining that would be the second signal

    # --- what the coordinator says (LinkUser) ----------------------------------------------------

    def welcomed(self, welcome: Welcome) -> None:
        """Connected: go on with what was running, and say what is on offer."""
        self.outbox.set_window(welcome.window_bytes)
        orphans = self._resumption.welcomed(welcome)
        self._welcomed_at = self._clock()
        self._finished_jobs = 0
        self._state = LinkState.CONNECTED
        self._last_rejection = None
        self._heartbeat_s = welcome.heartbeat_ms / 1000
        self._welcomed.set()
        self.connected.set()
        self._advertise()
        if self._stop_requested.is_set():
            self._say_draining()
        fields = {
            "provider_id": welcome.provider_id,
            "session": welcome.session_id.hex(),
            "resumed": len(welcome.resumed),
            "given_up": len(orphans),
        }
        log.info("connected", extra={"fields": fields})

    def job_offered(self, job: Job) -> None:
        """Run it or refuse it."""
        self.jobs.offer(job)

    def cancel_requested(self, cancel: Cancel) -> None:
        """Stop it."""
        self.jobs.cancel(cancel.job_id, cancel.reason or "cancelled by the coordinator")

    def acknowledged(self, ack: Ack) -> None:
        """Forget what is safe."""
        self.outbox.acknowledge(ack)

    def drain_requested(self, drain: Drain) -> None:
        """The link sees the running jobs through, closes, and says when to come back."""
        fields = {"reason": drain.reason, "reconnect_after_ms": drain.reconnect_after_ms}
        log.info("the coordinator is going away", extra={"fields": fields})

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
        if not self.connected.is_set():
            return
        self._revision += 1
        models = self.offers()
        limits = agent_limits(self._config)
        self.outbox.put(Capabilities(self._revision, models, limits, dict(metadata(self._config))))

    async def _beat(self) -> None:
        while True:
            await self.connected.wait()
            self._welcomed.clear()
            self.outbox.put(self._reports.heartbeat())
            with suppress(TimeoutError):
                async with asyncio.timeout(self._heartbeat_s):
                    await self._welcomed.wait()  # perhaps with another interval

    async def _watch_consumers(self) -> None:
        """A consumer that takes nothing must not hold memory and a machine for ever."""
        while True:
            await self.connected.wait()
            limit_s = self._config.limits.slow_consumer_s
            streams = self.outbox.streams
            for stream in self._slow_consumers.stalled(streams, self._clock(), limit_s):
                self.jobs.end_stalled(stream)
            await asyncio.sleep(limit_s / SLOW_LOOKS)

    def _job_ended(self, record: JobRecord) -> None:
        self._finished_jobs += isinstance(record.end, JobResult)
        count_job(record, self._figures, self.metrics)

    def offers(self) -> list[ModelOffer]:
        """The models that are offered now."""
        return model_offers(self._discovery.serving(), self._config)

    def status(self) -> StatusSnapshot:
        """The whole agent at this moment."""
        return self._reports.status(
            link=self._state,
            welcomed_at=self._welcomed_at,
            last_rejection=self._last_rejection,
            draining=self._stop_requested.is_set(),
        )


def _guards(backends: Backends, clock: Callable[[], float]) -> dict[str, Guard]:
    """A guard for each backend, with the operator's limit for it."""
    return {
        backend.id: Guard(backend.kind, backends.tokens_per_minute.get(backend.id), clock)
        for backend in backends.usable
    }
