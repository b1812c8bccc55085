"""Keeps the agent connected: one link after the other, and what they have in common.

::

    starting ──▶ connecting ◀──▶ connected
                     │               │
                     └───────┬───────┘
                             ▼
                          stopped

Jobs and their streams outlive a link. What the coordinator says goes to them by plain calls.
"""

import asyncio
import os
from collections.abc import Callable

from provider_agent.agent.config import CoordinatorConfig
from provider_agent.agent.identity.key import Identity
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.jobs.running import Jobs
from provider_agent.agent.link.backoff import Disconnect, DisconnectCause, Fatal, next_attempt
from provider_agent.agent.link.connection import Link
from provider_agent.agent.link.coordinators import Coordinators
from provider_agent.agent.link.dial import DialSettings
from provider_agent.agent.link.resumption import Resumption
from provider_agent.agent.link.state import LinkState
from provider_agent.agent.version import agent_version
from provider_agent.event_log import EventLogger
from provider_agent.protocol.frames import Ack, Cancel, Drain, Job, Welcome
from provider_agent.protocol.session import AgentSession

log = EventLogger(__name__)


class Uplink:
    """The way to the coordinator; the `LinkUser` of its links.

    Args:
        config: where to dial, and with what.
        identity: the agent's key.
        jobs: what runs.
        outbox: what is to be sent.
        on_welcome: called when a coordinator has welcomed the agent.
        on_retry: called with how a link ended before there is another.
        clock: monotonic, in seconds.
        uniform: random, in [0, 1).

    Attributes:
        config: used from the next connection on.
        url: the address that is, or was last, dialled.
        state: where it stands.
        connected: set while a coordinator has welcomed the agent.
        welcomed_at: when one last did; None: never.
        heard_at: when a coordinator last showed that it is there.
        last_rejection: how the last link or attempt ended; None while connected.
    """

    def __init__(
        self,
        config: CoordinatorConfig,
        identity: Identity,
        jobs: Jobs,
        outbox: Outbox,
        *,
        on_welcome: Callable[[Welcome], None],
        on_retry: Callable[[DisconnectCause], None],
        clock: Callable[[], float],
        uniform: Callable[[], float],
    ) -> None:
        self.config = config
        self.url = config.url
        self.state = LinkState.STARTING
        self.connected = asyncio.Event()
        self.welcomed_at: float | None = None
        self.heard_at = 0.0
        self.last_rejection: str | None = None
        self._identity = identity
        self._jobs = jobs
        self._outbox = outbox
        self._on_welcome = on_welcome
        self._on_retry = on_retry
        self._clock = clock
        self._uniform = uniform
        self._instance_id = os.urandom(8).hex()
        self._completed_before = 0
        self._resumption = Resumption(
            outbox, lambda job_id: jobs.cancel(job_id, "the coordinator does not go on with it")
        )

    def __repr__(self) -> str:
        return f"<Uplink {self.state} {self._resumption!r}>"

    async def run(self) -> None:
        """Dial, and dial again as `backoff.after` decides; returns when that is pointless.

        Cancelling it closes the link courteously. The jobs of its session stay until `give_up`.
        """
        dialled = self.config
        coordinators = _addresses(dialled)
        waited_s = 0.0
        while True:
            if self.config is not dialled:
                if _urls(self.config) != _urls(dialled):
                    coordinators = _addresses(self.config)
                dialled = self.config
            self.state = LinkState.CONNECTING
            self.url = coordinators.current
            settings = DialSettings.of(dialled, self.url)
            end = await Link(settings, self._new_session, self._outbox, self).run()
            welcomed_s = self._ended(end)
            finished_job = self._jobs.completed > self._completed_before
            decision = next_attempt(
                end, waited_s, welcomed_s, self._uniform, finished_job=finished_job
            )
            wait_s = coordinators.ended(decision, self._clock(), welcomed=welcomed_s is not None)
            if isinstance(decision, Fatal):
                _log_useless(self.url, end, decision)
            else:
                # What one coordinator asked for is not waited when there is another.
                waited_s = decision.waited_s - decision.after_s + (wait_s or 0.0)
            if wait_s is None:
                self.give_up()
                return
            fields: dict[str, object] = {"reason": end.detail, "retry_in_s": round(wait_s, 1)}
            if len(_urls(dialled)) > 1:
                fields["next"] = coordinators.current
            log.warning("not connected", **fields)
            self._on_retry(end.cause)
            await asyncio.sleep(wait_s)

    def give_up(self) -> None:
        """Nobody will ask for the jobs of the session: cancel and forget them."""
        self._resumption.give_up()

    def _new_session(self, authority: str) -> AgentSession:
        session_id, live_jobs = self._resumption.offer()
        return AgentSession(
            authority=authority,
            public_key=self._identity.public_key,
            sign=self._identity.sign,
            agent_version=agent_version(),
            instance_id=self._instance_id,
            enrollment_code=self.config.enrollment_code or "",
            session_id=session_id,
            live_jobs=live_jobs,
        )

    def _ended(self, end: Disconnect) -> float | None:
        """The jobs go on and wait for the next link; returns how long this one was welcomed."""
        self.last_rejection = end.detail
        self._outbox.drop_control()
        self._resumption.lost()
        if not self.connected.is_set() or self.welcomed_at is None:
            return None
        self.connected.clear()
        return self._clock() - self.welcomed_at

    # --- what the coordinator says (LinkUser) ----------------------------------------------------

    def heard(self) -> None:
        """It is there."""
        self.heard_at = self._clock()

    def welcomed(self, welcome: Welcome) -> None:
        """Connected: go on with what was running."""
        self._outbox.set_window(welcome.window_bytes)
        given_up = self._resumption.welcomed(welcome)
        self.welcomed_at = self._clock()
        self._completed_before = self._jobs.completed
        self.state = LinkState.CONNECTED
        self.last_rejection = None
        self.connected.set()
        self._on_welcome(welcome)
        fields = {
            "provider_id": welcome.provider_id,
            "session": welcome.session_id.hex(),
            "resumed": len(welcome.resumed),
            "given_up": len(given_up),
        }
        log.info("connected", **fields)

    def job_offered(self, job: Job) -> None:
        """Run it or refuse it."""
        self._jobs.submit(job)

    def cancel_requested(self, cancel: Cancel) -> None:
        """Stop it."""
        self._jobs.cancel(cancel.job_id, cancel.reason or "cancelled by the coordinator")

    def acknowledged(self, ack: Ack) -> None:
        """Forget what is safe."""
        self._outbox.acknowledge(ack)

    def drain_requested(self, drain: Drain) -> None:
        """The link sees the running jobs through, closes, and says when to come back."""
        fields = {"reason": drain.reason, "reconnect_after_ms": drain.reconnect_after_ms}
        log.info("the coordinator is going away", **fields)


def _log_useless(url: str, end: Disconnect, decision: Fatal) -> None:
    fields = {"url": url, "reason": end.detail, "what_to_do": decision.hint}
    log.error("the coordinator cannot be used", **fields)


def _urls(config: CoordinatorConfig) -> tuple[str, ...]:
    return (config.url, *config.fallback_urls)


def _addresses(config: CoordinatorConfig) -> Coordinators:
    return Coordinators(_urls(config))
