"""Keeps the agent connected: one link after the other, with the state that outlives each of them.

::

    starting ──▶ connecting ◀──▶ connected
                  ▲  │               │
                  │  └───────┬───────┘
                  │          ├────────▶ stopped
                  │          ▼
                  └── disconnected

Jobs and their streams outlive a link.
"""

import asyncio
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from provider_agent.agent.config import CoordinatorConfig
from provider_agent.agent.config.addresses import shown_url
from provider_agent.agent.config.dialect import USEPOD, dialect_of
from provider_agent.agent.identity.key import Identity
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.jobs.running import Jobs
from provider_agent.agent.link.advice import explain_disconnect
from provider_agent.agent.link.backoff import (
    HEALTHY_S,
    OPERATOR_HINTS,
    Disconnect,
    DisconnectCause,
    Fatal,
    Retry,
    is_healthy,
    next_attempt,
)
from provider_agent.agent.link.coalescing import Coalescing
from provider_agent.agent.link.connection import Link
from provider_agent.agent.link.coordinator_messages import CoordinatorMessages
from provider_agent.agent.link.coordinators import Coordinators
from provider_agent.agent.link.dial import DialSettings
from provider_agent.agent.link.resumption import Resumption
from provider_agent.agent.link.state import LinkState
from provider_agent.agent.link.usepod import UsepodLinks
from provider_agent.agent.version import agent_version
from provider_agent.event_log import EventLogger
from provider_agent.protocol import receipts
from provider_agent.protocol.agent_protocol import AgentProtocol, AgentSession
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.errors import LastError
from provider_agent.protocol.field_values import to_line
from provider_agent.protocol.frames import (
    Ack,
    Cancel,
    CoordinatorFrame,
    Drain,
    JobHeader,
    Notice,
    RequestChunk,
    RoutingStatus,
    Welcome,
)
from provider_agent.protocol.limits import HANDSHAKE_TIMEOUT_S

log = EventLogger(__name__)

LATE_HELLO_S: Final = 2 * HANDSHAKE_TIMEOUT_S
"""How long after the end of its link an unanswered `Hello` may still arrive and replace a newer
link. A coordinator closes an unfinished handshake after half of this; the rest is for the network.
"""


class Uplink:
    """Opens links, dispatches the frames that they receive, and decides when to open the next one.

    Args:
        config: the coordinator's addresses and credentials.
        identity: the agent's key.
        key_path: its file.
        jobs: executes the received jobs.
        outbox: the frames to send.
        on_welcome: called with each `Welcome`.
        on_retry: called with the cause of each disconnect that is followed by another attempt.
        on_notice: called with the severity of each notice of the coordinator.
        on_state: called when `state` has changed.
        clock: monotonic, in seconds.
        uniform: random, in [0, 1).
        replace: whether each `Hello` until the first `Welcome` asks to replace a connected agent
            with the same key.
        last_error: returns the last error, for the heartbeats of the dialect `usepod`.

    Attributes:
        config: applies from the next connection on.
        url: the address that was dialed last.
        dialect: the dialect of the coordinator there.
        connected: set from `Welcome` until the link ends.
        welcomed_at: time of the last `Welcome`; None: there was none.
        last_activity_at: time of the last received message or pong.
        last_disconnect: why the last link or attempt ended; None while connected.
        messages: the coordinator's messages to the operator.
    """

    def __init__(
        self,
        config: CoordinatorConfig,
        identity: Identity,
        key_path: Path,
        jobs: Jobs,
        outbox: Outbox,
        *,
        on_welcome: Callable[[Welcome], None],
        on_retry: Callable[[DisconnectCause], None],
        on_notice: Callable[[str], None],
        on_state: Callable[[], None],
        clock: Callable[[], float],
        uniform: Callable[[], float],
        replace: bool = False,
        last_error: Callable[[], LastError | None] = lambda: None,
    ) -> None:
        self.config = config
        self.url = config.url
        self._state = LinkState.STARTING
        self._on_state = on_state
        self.connected = asyncio.Event()
        self.welcomed_at: float | None = None
        self.last_activity_at = 0.0
        self.last_disconnect: str | None = None
        self.messages = CoordinatorMessages(on_notice, clock)
        self._identity = identity
        self._jobs = jobs
        self._outbox = outbox
        self._on_welcome = on_welcome
        self._on_retry = on_retry
        self._clock = clock
        self._uniform = uniform
        self._replace = replace
        self._usepod = UsepodLinks(identity, key_path, last_error)
        self.dialect = dialect_of(config, config.url)
        self._instance_id = os.urandom(8).hex()
        self._welcomed_urls: set[str] = set()
        self._unanswered_at = -math.inf
        """The end of the last link that received no answer to its `Hello`."""
        self._completed_before = 0
        self._acked_before: dict[bytes, int] = {}
        self._resumption = Resumption(
            outbox, lambda job_id: jobs.cancel(job_id, "the coordinator did not resume it")
        )

    def __repr__(self) -> str:
        return f"<Uplink {self.state} {self._resumption!r}>"

    @property
    def state(self) -> LinkState:
        """The state of the current link."""
        return self._state

    @state.setter
    def state(self, state: LinkState) -> None:
        if state is not self._state:
            self._state = state
            self._on_state()

    async def run(self) -> None:
        """Stay connected; returns when every address has failed permanently.

        Cancelling it closes the link with a close handshake. The session's jobs remain until
        `abandon_session`. After `disconnected`, it may be called again.
        """
        config = self.config
        coordinators = Coordinators(_urls(config))
        waited_s = 0.0
        while True:
            if self.config is not config:
                if _urls(self.config) != _urls(config):
                    coordinators = Coordinators(_urls(self.config))
                config = self.config
            self.state = LinkState.CONNECTING
            self.url = coordinators.current
            disconnect = await self._run_link(config)
            worked = self._has_worked()
            welcomed_s = self._link_ended(disconnect)
            decision = next_attempt(
                disconnect,
                waited_s,
                welcomed_s,
                self._uniform,
                # Such a coordinator drops its sessions at every update, and expects them at once.
                worked=worked or self.dialect == USEPOD,
                welcomed_before=self.url in self._welcomed_urls,
                hello_unanswered=self._clock() - self._unanswered_at < LATE_HELLO_S,
            )
            wait_s = coordinators.choose_next(
                decision,
                self._clock(),
                welcomed=welcomed_s is not None and not disconnect.moved,
                healthy=is_healthy(welcomed_s, worked=worked),
            )
            self._log_decision(disconnect, decision, coordinators.current, wait_s)
            if wait_s is None:
                self.abandon_session()
                return
            if isinstance(decision, Retry):
                # Count the actual wait: `decision.waited_s` includes `decision.after_s`, the wait
                # for the same address, but another address may be dialed.
                waited_s = decision.waited_s - decision.after_s + wait_s
            self._on_retry(disconnect.cause)
            await asyncio.sleep(wait_s)

    def disconnected(self) -> None:
        """Forget the link and its session, after `run` was cancelled on request."""
        self.state = LinkState.DISCONNECTED
        self.last_disconnect = None
        self.connected.clear()
        self.messages.link_ended()
        self._outbox.drop_control()
        self.abandon_session()

    def abandon_session(self) -> None:
        """Forget the session, and cancel its jobs: no coordinator will resume them."""
        self._resumption.abandon()

    async def _run_link(self, config: CoordinatorConfig) -> Disconnect:
        try:
            self.dialect = dialect_of(config, self.url)
            is_usepod = self.dialect == USEPOD
            link = Link(
                DialSettings.of(config, self.url),
                self._new_usepod_session if is_usepod else self._new_protocol,
                self._outbox,
                on_frame=self._receive,
                on_activity=self._note_activity,
                on_unsendable=self._jobs.withdraw,
                coalescing=Coalescing(config.coalesce_ms / 1000),
                dialect=self._usepod.new_dialect() if is_usepod else VERSION_1,
                are_jobs_stopping=lambda: self._jobs.stopping,
            )
            disconnect = await link.run()
            if link.hello_unanswered:
                self._unanswered_at = self._clock()
            return disconnect
        except Exception:
            # A defect costs this attempt; jobs and backends continue.
            log.exception("link failed by an internal error")
            return Disconnect(DisconnectCause.INTERNAL, "internal error of the agent")

    def _new_protocol(self, authority: str) -> AgentProtocol:
        session_id, live_jobs = self._resumption.offer()
        return AgentProtocol(
            authority=authority,
            public_key=self._identity.public_key,
            sign=self._identity.sign,
            agent_version=agent_version(),
            instance_id=self._instance_id,
            enrollment_code=to_line(self.config.enrollment_code or ""),
            session_id=session_id,
            live_jobs=live_jobs,
            features=[receipts.FEATURE],
            replace=self._replace,
        )

    def _new_usepod_session(self, _authority: str) -> AgentSession:
        return self._usepod.new_session(to_line(self.config.enrollment_code or ""))

    def _link_ended(self, disconnect: Disconnect) -> float | None:
        """Detach the session; return the seconds since `Welcome`, None if the link had none."""
        self.state = LinkState.CONNECTING
        self.last_disconnect = disconnect.detail
        self.messages.link_ended()
        self._outbox.drop_control()
        self._resumption.lost()
        if not self.connected.is_set() or self.welcomed_at is None:
            return None
        self.connected.clear()
        return self._clock() - self.welcomed_at

    def _has_worked(self) -> bool:
        """Whether the ended link served a job; see `is_healthy`.

        The age of the job counts, not that of the link: a long response may outlive many links that
        each last less than `HEALTHY_S`.
        """
        if self._jobs.completed > self._completed_before:
            return True
        return any(
            stream.acked > self._acked_before.get(stream.job_id, 0)
            and self._jobs.age_s(stream.job_id) >= HEALTHY_S
            for stream in self._outbox.streams
        )

    def _log_decision(
        self, disconnect: Disconnect, decision: Retry | Fatal, next_url: str, wait_s: float | None
    ) -> None:
        reason, cause = disconnect.detail, disconnect.cause
        wait = wait_s if wait_s is None else round(wait_s, 3)
        url, next_shown = shown_url(self.url), shown_url(next_url)
        log.debug("backoff decided", cause=cause, url=url, next=next_shown, wait_s=wait)
        # Expected in a rolling update: the new agent connects while this one drains.
        if cause is DisconnectCause.REPLACED and not self._jobs.accepting:
            log.info("replaced by a newer agent", url=url)
        elif isinstance(decision, Fatal):
            log.error("coordinator unusable", url=url, reason=reason, what_to_do=decision.hint)
        if wait_s is not None:
            explained = explain_disconnect(
                disconnect,
                has_proxy=bool(self.config.proxy),
                worked_before=self.url in self._welcomed_urls,
            )
            fields: dict[str, object] = {"reason": reason, "retry_in_s": round(wait_s, 1)}
            if self.config.fallback_urls:
                fields["next"] = next_shown
            if isinstance(decision, Retry) and explained.what_to_do:
                fields |= {"reason": explained.problem, "what_to_do": explained.what_to_do}
            is_error = cause in OPERATOR_HINTS and isinstance(decision, Retry)
            (log.error if is_error else log.warning)("not connected", **fields)

    # --- callbacks of the link --------------------------------------------------------------------

    def _note_activity(self) -> None:
        self.last_activity_at = self._clock()

    def _receive(self, frame: CoordinatorFrame) -> None:
        match frame:
            case Ack():
                self._outbox.acknowledge(frame)
            case RequestChunk():
                self._jobs.receive_request(frame)
            case JobHeader():
                self._jobs.submit(frame)
            case Cancel():
                reason = frame.reason or "cancelled by the coordinator"
                self._jobs.cancel(frame.job_id, reason)
            case Welcome():
                self._welcomed(frame)
            case Drain():
                # The link finishes the running jobs and closes itself.
                self.messages.receive_drain(frame)
            case Notice():
                self.messages.receive_notice(frame)
            case RoutingStatus():
                self.messages.receive_routing(frame)

    def _welcomed(self, welcome: Welcome) -> None:
        self._outbox.set_window(welcome.window_bytes)
        abandoned = self._resumption.welcomed(welcome)
        self.welcomed_at = self._clock()
        self._welcomed_urls.add(self.url)
        if self.dialect == USEPOD:
            self._usepod.welcomed(welcome.provider_id)
        self._completed_before = self._jobs.completed
        self._acked_before = {stream.job_id: stream.acked for stream in self._outbox.streams}
        self.state = LinkState.CONNECTED
        self.last_disconnect = None
        self._replace = False
        self.connected.set()
        self._on_welcome(welcome)
        log.info(
            "connected",
            coordinator=shown_url(self.url),
            provider_id=welcome.provider_id,
            session=welcome.session_id.hex() if any(welcome.session_id) else None,
            resumed=sum(not job.ended for job in welcome.resumed),
            abandoned=len(abandoned),
        )


def _urls(config: CoordinatorConfig) -> tuple[str, ...]:
    return (config.url, *config.fallback_urls)
