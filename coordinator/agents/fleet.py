"""The connected agents and the detached sessions: admission, resumption and routing.

Of the processes with one key, the newest receives the new jobs; `key_holder` decides whether an
agent may take over a key in use. An older connection of another process is retired, as in a rolling
update: it finishes its jobs. An older connection of the same process is closed.
"""

import logging
from collections.abc import Callable, Collection, Iterable

from provider_agent.coordinator.agents.admission import Admission
from provider_agent.coordinator.agents.close_reason import REPLACED_BY_NEWER
from provider_agent.coordinator.agents.connected_agent import RECONNECT_AFTER_MS, ConnectedAgent
from provider_agent.coordinator.agents.fleet_offers import FleetOffers
from provider_agent.coordinator.agents.job_history import JobHistory, is_refusal
from provider_agent.coordinator.agents.model_availability import ModelAvailability
from provider_agent.coordinator.agents.routable_agent import RoutableAgent
from provider_agent.coordinator.agents.routing import choose_agent
from provider_agent.coordinator.agents.snapshots import (
    AgentSnapshot,
    DetachedSnapshot,
    snapshot_of_agent,
    snapshot_of_session,
)
from provider_agent.coordinator.connections.limited_log import AgentLogs, LimitedLog
from provider_agent.coordinator.reason import Reason
from provider_agent.coordinator.sessions.detached_session import DetachedSession
from provider_agent.coordinator.sessions.detached_sessions import DetachedSessions
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.event_log import EventLogger
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation
from provider_agent.protocol.frames import Hello, JobEnd, Rejected

log = EventLogger(__name__)

FULL_RETRY_MS = 30_000
"""How long a rejected agent waits before it reconnects, when `max_agents` agents are connected."""


class Fleet:
    """The registry of agents: admits them and chooses one for each request.

    Args:
        settings: the coordinator's settings.
        clock: monotonic, in seconds; the same clock as that of every `ConnectedAgent`.

    Attributes:
        offers: the agents that can receive jobs, and what they offer.
        availability: which models can run soon, although no agent can run them now.
    """

    def __init__(self, settings: CoordinatorSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._admission = Admission(settings, clock)
        self._agents: dict[bytes, ConnectedAgent] = {}
        self._retired: dict[bytes, ConnectedAgent] = {}
        self.offers = FleetOffers(self._agents)
        self._detached = DetachedSessions(settings.max_agents, settings.resume_ms / 1000)
        self.availability = ModelAvailability(self._agents, self._detached, self.offers, clock)
        self._history = JobHistory(clock)
        self._logs = AgentLogs(log, clock)
        self._on_capacity: Callable[[str | None], None] = lambda _: None
        self._on_local_change: Callable[[], None] = lambda: None
        self._drain_reason: str | None = None
        self._closed = False

    def __repr__(self) -> str:
        retired = f" retired={list(self._retired.values())}" if self._retired else ""
        detached = f" {self._detached}" if self._detached else ""
        return f"<Fleet {list(self._agents.values())}{retired}{detached}>"

    def __len__(self) -> int:
        return len(self._agents) + len(self._retired)

    def log_of(self, public_key: bytes) -> LimitedLog:
        """Return the log of an admitted agent, which limits the lines of each agent."""
        return self._logs.of(public_key)

    def admit(self, hello: Hello, address: str) -> Rejected | None:
        """Return why the agent is rejected, or None; `address` is its network address.

        An agent whose key is connected or has a detached session is admitted beyond `max_agents`.
        """
        settings = self._settings
        if (refusal := self._admission.refusal(hello, address)) is not None:
            return refusal
        if self._drain_reason is not None and (self._closed or not self._has_session(hello)):
            return Rejected("draining", "This coordinator is stopping.", RECONNECT_AFTER_MS)
        if not self._has_session(hello) and self.offers.remote.must_wait(hello):
            return Rejected(
                "cluster_unavailable",
                "The coordinators of this agent's jobs cannot be reached.",
                RECONNECT_AFTER_MS,
            )
        key = hello.public_key
        is_new = not (key in self._agents or key in self._retired or self._detached.holds(key))
        if is_new and len(self) >= settings.max_agents:
            return Rejected(
                "too_many_connections", "This coordinator accepts no more agents.", FULL_RETRY_MS
            )
        return None

    def key_holder(self, hello: Hello) -> ConnectedAgent | None:
        """Return the connected agent with the key of `hello`, unless `hello` may replace it.

        `hello` may replace it if it comes from the same process, resumes a session, sets
        `replace` or has no `instance_id`, or if the connected agent is draining, as in a rolling
        update.
        """
        holder = self._agents.get(hello.public_key)
        if hello.replace or holder is None or holder.draining or not hello.instance_id:
            return None
        is_same_process = hello.instance_id == holder.instance_id
        return None if is_same_process or self._has_session(hello) else holder

    def _has_session(self, hello: Hello) -> bool:
        if hello.session_id is None:
            return False
        is_connected = self._connected(hello.public_key, hello.session_id) is not None
        return is_connected or self._detached.holds(hello.public_key, hello.session_id)

    def _connected(self, public_key: bytes, session_id: bytes) -> ConnectedAgent | None:
        for agents in (self._agents, self._retired):
            agent = agents.get(public_key)
            if agent is not None and agent.session_id == session_id:
                return agent
        return None

    def claim(self, hello: Hello) -> DetachedSession | None:
        """Remove and return the session that `hello` resumes, if there is one.

        The session's previous connection may still be open here, because an agent often notices a
        lost link before the coordinator does.
        """
        if hello.session_id is None:
            return None
        older = self._connected(hello.public_key, hello.session_id)
        if older is None:
            return self._detached.claim(hello.public_key, hello.session_id)
        return self._detach(older)

    def _detach(self, older: ConnectedAgent) -> DetachedSession:
        self._remove(older)
        session = older.detach()
        older.close(REPLACED_BY_NEWER)
        return session

    def take_over(
        self, hello: Hello, session_id: bytes, done: Callable[[DetachedSession | None], None]
    ) -> bool:
        """Ask other coordinators for the session that `hello` resumes; see `RemoteAgents`."""
        if hello.session_id is None:
            return False
        return self.offers.remote.take_over(hello, session_id, done)

    def release(
        self, public_key: bytes, session_id: bytes, job_ids: Collection[bytes]
    ) -> DetachedSession | None:
        """Remove and return a session that its agent resumes at another coordinator.

        Its id may be another one than `session_id`, if the agent did not receive the latest
        `Welcome`; then it has one of the jobs.
        """
        for agents in (self._agents, self._retired):
            agent = agents.get(public_key)
            if agent is not None and (
                agent.session_id == session_id or any(map(agent.has_job, job_ids))
            ):
                return self._detach(agent)
        return self._detached.claim(public_key, session_id) or self._detached.claim_with_job(
            public_key, job_ids
        )

    def keep(self, session: DetachedSession) -> None:
        """Store a session whose agent has disconnected before it was admitted."""
        if self._closed:
            session.end(Reason.COORDINATOR_STOPPING)
        else:
            self._detached.add(session)

    def end_older_session(self, public_key: bytes, is_older: Callable[[str], bool]) -> None:
        """End the detached session of an agent that was started again at another coordinator.

        Args:
            public_key: the agent.
            is_older: whether the `instance_id` of a session is that of an older process.
        """
        self._detached.end_current(public_key, is_older)

    def join(self, agent: ConnectedAgent) -> None:
        """Add an admitted agent; close or retire older connections of its key."""
        key = agent.public_key
        self.availability.had_agents = True
        self.offers.remote.agent_joined(key, agent.instance_id)
        if not agent.resumed:
            self._detached.end_replaced(key, agent.instance_id)
            self._close_same_process(agent)
        if agent.retired and key in self._agents:
            self._retire(agent)
        else:
            agent.retired = False
            older = self._agents.get(key)
            self._agents[key] = agent
            if older is not None:
                self._retire(older)
        self.offers.update(key)
        self._send_drain(agent)
        self.capacity_changed()

    def _close_same_process(self, agent: ConnectedAgent) -> None:
        """Close the older connections of a process that started a new session."""
        for agents in (self._agents, self._retired):
            older = agents.get(agent.public_key)
            if older is not None and older.instance_id == agent.instance_id:
                older.leave()
                older.close(REPLACED_BY_NEWER)

    def _retire(self, agent: ConnectedAgent) -> None:
        """Retire a connection; close the previously retired connection of the same key."""
        oldest = self._retired.pop(agent.public_key, None)
        if oldest is not None:
            oldest.leave()
            oldest.close(REPLACED_BY_NEWER)
        self._retired[agent.public_key] = agent
        agent.retire()

    def leave(self, agent: ConnectedAgent, session: DetachedSession, *, keep_session: bool) -> None:
        """Remove an agent whose connection ends, whether it has joined or not.

        Args:
            agent: the agent whose connection ends.
            session: the agent's session.
            keep_session: whether the agent may resume the session; otherwise the session ends.
        """
        had_joined = self._remove(agent)
        if had_joined and session.offers is not None:
            self.availability.missing.left(session.offers.models)
        if had_joined and keep_session and not self._closed:
            self._detached.add(session)
            fields = {"session": session.session_id.hex(), "jobs": len(session.jobs)}
            self.log_of(agent.public_key).log(logging.INFO, "session detached", **fields)
        else:
            reason = Reason.COORDINATOR_STOPPING if self._closed else Reason.PROVIDER_LOST
            session.end(reason)

    def _remove(self, agent: ConnectedAgent) -> bool:
        for agents in (self._agents, self._retired):
            if agents.get(agent.public_key) is agent:
                del agents[agent.public_key]
                self.offers.update(agent.public_key)
                return True
        return False

    def pick(
        self,
        model_id: str,
        operation: Operation,
        tried: Iterable[bytes] = (),
        *,
        wants_stream: bool = True,
    ) -> RoutableAgent | ErrorCode:
        """Choose the agent for a request, among those whose public key is not in `tried`.

        Args:
            model_id: the requested model.
            operation: the requested operation.
            tried: the public keys of agents that must not receive the request again.
            wants_stream: whether the response must be an event stream.

        Returns:
            The agent, or the reason why no agent is eligible.
        """
        if self._drain_reason is not None and not self.offers.only_remote:
            return ErrorCode.DRAINING
        excluded = set(tried)
        candidates = self.offers.agents_with(model_id)
        if excluded:
            candidates = [agent for agent in candidates if agent.public_key not in excluded]
        chosen = choose_agent(
            candidates, model_id, operation, self._history, wants_stream=wants_stream
        )
        if (
            chosen is ErrorCode.MODEL_NOT_LOADED
            and not excluded
            and self.availability.may_return(model_id)
        ):
            return ErrorCode.OUT_OF_CAPACITY
        if not isinstance(chosen, ErrorCode):
            self._record_job(chosen, model_id)
        return chosen

    def remote_offers_changed(self, public_key: bytes, model_ids: Iterable[str]) -> None:
        """Forget a remote agent's refusals of models whose offers are new."""
        self._history.forget_refusals(public_key, model_ids)

    def accept(
        self, public_key: bytes, model_id: str, operation: Operation
    ) -> ConnectedAgent | ErrorCode:
        """Return the agent for a job of another coordinator, or why the job is refused."""
        agent = self._agents.get(public_key)
        if agent is None or self._drain_reason is not None:
            # Not `MODEL_NOT_LOADED` or `DRAINING`: the agent may soon be connected again, here or
            # to another coordinator, and the request may wait for it.
            return ErrorCode.OUT_OF_CAPACITY
        chosen = choose_agent((agent,), model_id, operation, self._history)
        if not isinstance(chosen, ErrorCode):
            self._record_job(chosen, model_id)
        return chosen

    def _record_job(self, agent: RoutableAgent, model_id: str) -> None:
        self.availability.missing.job_sent(model_id)
        self._history.job_sent(agent.public_key)

    def accepting(self) -> list[ConnectedAgent]:
        """Return the agents that are connected here, unless the coordinator is stopping."""
        return [] if self._drain_reason is not None else list(self._agents.values())

    def why_no_agent(self, model_id: str, operation: Operation, code: ErrorCode) -> Reason:
        """Return the cause behind a code that `pick` returned."""
        if self._drain_reason is not None and not self.offers.only_remote:
            return Reason.COORDINATOR_STOPPING
        return self.availability.why_no_agent(model_id, operation, code)

    def set_capacity_callback(self, callback: Callable[[str | None], None]) -> None:
        """Call `callback` when an agent may have room, with the model of the job that has ended.

        The model is None if the reason is another one, for example a new agent.
        """
        self._on_capacity = callback

    def set_local_change_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the agents that are connected here, or their jobs, have changed."""
        self._on_local_change = callback

    def job_ended(self, public_key: bytes, model_id: str, end: JobEnd, duration_s: float) -> None:
        """Record how a job ended, also one whose response was no longer needed."""
        self._history.job_ended(public_key, model_id, end, duration_s)
        self._on_capacity(None if is_refusal(end) else model_id)
        self._on_local_change()

    def offers_changed(self, public_key: bytes, model_ids: Iterable[str]) -> None:
        """Forget the agent's refusals of models whose offers are new; try to send requests."""
        self._history.forget_refusals(public_key, model_ids)
        self.offers.update(public_key)
        self.capacity_changed()

    def capacity_changed(self) -> None:
        """Report that an agent may have room now."""
        self._on_capacity(None)
        self._on_local_change()

    def remote_agents_changed(self, left_models: Iterable[str]) -> None:
        """Report that an agent of another coordinator may have room now.

        Args:
            left_models: models of agents that are no longer connected to another coordinator;
                requests wait for them as for those of agents that were connected here.
        """
        self.availability.missing.left(left_models)
        self._on_capacity(None)

    def next_retry_s(self, model_id: str) -> float | None:
        """Return seconds until the first agent that refused the model may get a job, or None."""
        keys = [agent.public_key for agent in self.offers.agents_with(model_id)]
        return self._history.next_retry_s(keys, model_id)

    def snapshot(self) -> list[AgentSnapshot]:
        """Return the current state of every connected agent, sorted by public key."""
        agents = [*self._agents.values(), *self._retired.values()]
        agents.sort(key=lambda agent: (agent.public_key, agent.retired))
        return [snapshot_of_agent(agent) for agent in agents]

    def detached_sessions(self) -> list[DetachedSnapshot]:
        """Return the current state of every detached session, the oldest first."""
        return [snapshot_of_session(session) for session in self._detached]

    def start_draining(self, reason: str, *, handing_over: bool = False) -> None:
        """Send `Drain` to every agent; `pick` then chooses none of them.

        Until `close`, agents may still resume a detached session.

        Args:
            reason: for the logs of the agents.
            handing_over: whether the agents may reconnect at once, to other coordinators, which
                serve the waiting requests too. Otherwise those fail.
        """
        self._drain_reason, self.offers.only_remote = reason, handing_over
        for agent in [*self._agents.values(), *self._retired.values()]:
            self._send_drain(agent)
        self.capacity_changed()

    def _send_drain(self, agent: ConnectedAgent) -> None:
        if self._drain_reason is not None:
            wait_ms = 0 if self.offers.only_remote else RECONNECT_AFTER_MS
            agent.send_drain(self._drain_reason, wait_ms)

    def hand_over(self) -> None:
        """Close the connections with running jobs, so that other coordinators continue them."""
        for agent in [*self._agents.values(), *self._retired.values()]:
            agent.hand_over()

    def close(self) -> None:
        """End all detached sessions; later attempts to resume a session are rejected."""
        self._closed = True
        self._detached.end_all()
