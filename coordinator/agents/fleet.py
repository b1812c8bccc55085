"""The agents that are connected now, and the sessions that wait for theirs.

Of one key, the newest connection gets the new jobs. Another process with the same key is retired
(think of a rolling update): it finishes what it has. What the same process left behind is closed.
"""

import base64
from collections.abc import Callable, Iterable

from provider_agent.coordinator.access import admits_agent
from provider_agent.coordinator.agents.close_reason import REPLACED_BY_NEWER
from provider_agent.coordinator.agents.connected_agent import RECONNECT_AFTER_MS, ConnectedAgent
from provider_agent.coordinator.agents.routing import choose_agent
from provider_agent.coordinator.agents.snapshots import AgentSnapshot, DetachedSnapshot
from provider_agent.coordinator.sessions.detached_session import DetachedSession
from provider_agent.coordinator.sessions.store import DetachedSessions
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.event_log import EventLogger
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation, WireFormat
from provider_agent.protocol.frames import Hello, Rejected

log = EventLogger(__name__)

FULL_RETRY_MS = 30_000
"""When an agent that found no seat may ask again."""


MODEL_GRACE_S = 60.0
"""How long a model that was served is expected back, and asked for again with 503 rather than given
up with 404: its server restarts, or its agent dials. A coordinator that has just started expects
every model, as long as no agent has come."""

MAX_REMEMBERED_MODELS = 4096
"""Models that were served; the longest ago is forgotten first."""


class Fleet:
    """Admits agents, forgets them, and picks one for a request.

    Args:
        settings: whom to admit, and how many.
        clock: seconds, monotonic; the one that stamps heartbeats.
    """

    def __init__(self, settings: CoordinatorSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._agents: dict[bytes, ConnectedAgent] = {}
        self._retired: dict[bytes, ConnectedAgent] = {}
        self._parked = DetachedSessions(settings.max_agents, settings.resume_ms / 1000)
        self._started_at = clock()
        self._served_at: dict[str, float] = {}
        self._draining: str | None = None
        self._closed = False

    def __repr__(self) -> str:
        retired = f" retired={list(self._retired.values())}" if self._retired else ""
        parked = f" {self._parked}" if self._parked else ""
        return f"<Fleet {list(self._agents.values())}{retired}{parked}>"

    def __len__(self) -> int:
        return len(self._agents) + len(self._retired)

    def admit(self, hello: Hello) -> Rejected | None:
        """Why this agent may not join; None: it may. What it comes back for is no new seat."""
        settings = self._settings
        if not admits_agent(hello, settings.enrollment_codes, settings.agent_keys):
            return Rejected(
                "not_enrolled",
                "This coordinator knows neither the agent's public key nor its enrolment code.",
            )
        if self._draining is not None and (self._closed or not self._has_session(hello)):
            return Rejected("draining", "This coordinator is stopping.", RECONNECT_AFTER_MS)
        key = hello.public_key
        is_new = not (key in self._agents or key in self._retired or self._parked.holds(key))
        if is_new and len(self) >= settings.max_agents:
            return Rejected(
                "too_many_connections", "This coordinator takes no more agents.", FULL_RETRY_MS
            )
        return None

    def _has_session(self, hello: Hello) -> bool:
        if hello.session_id is None:
            return False
        is_connected = self._connected(hello.public_key, hello.session_id) is not None
        return is_connected or self._parked.holds(hello.public_key, hello.session_id)

    def _connected(self, public_key: bytes, session_id: bytes) -> ConnectedAgent | None:
        for agents in (self._agents, self._retired):
            agent = agents.get(public_key)
            if agent is not None and agent.session_id == session_id:
                return agent
        return None

    def claim(self, hello: Hello) -> DetachedSession | None:
        """The session that this agent comes back for; from now on it is this agent's alone.

        It need not be parked yet: the agent often notices first that a link is lost.
        """
        if hello.session_id is None:
            return None
        older = self._connected(hello.public_key, hello.session_id)
        if older is None:
            return self._parked.claim(hello.public_key, hello.session_id)
        self._forget(older)
        session = older.detach()
        older.close(REPLACED_BY_NEWER)
        return session

    def join(self, agent: ConnectedAgent) -> None:
        """Take the agent in; another connection of the same key makes room for it."""
        key = agent.public_key
        if not agent.resumed:
            self._parked.end_unresumable(key, agent.instance_id)
            self._close_forgotten(agent)
        if agent.retired and key in self._agents:
            self._retire(agent)
        else:
            agent.retired = False
            older = self._agents.get(key)
            self._agents[key] = agent
            if older is not None:
                self._retire(older)
        if self._draining is not None:
            agent.ask_to_drain(self._draining)

    def _close_forgotten(self, agent: ConnectedAgent) -> None:
        """The same process dialled anew, without its session: its older link is only a remnant."""
        for agents in (self._agents, self._retired):
            older = agents.get(agent.public_key)
            if older is not None and older.instance_id == agent.instance_id:
                older.leave()
                older.close(REPLACED_BY_NEWER)

    def _retire(self, agent: ConnectedAgent) -> None:
        """Let it finish; the one that was retired before it has had its time."""
        oldest = self._retired.pop(agent.public_key, None)
        if oldest is not None:
            oldest.leave()
            oldest.close(REPLACED_BY_NEWER)
        self._retired[agent.public_key] = agent
        agent.retire()

    def leave(self, agent: ConnectedAgent, session: DetachedSession, *, keep_session: bool) -> None:
        """Forget the agent, and keep its session when it may come back for it."""
        was_here = self._forget(agent)
        if was_here and keep_session and not self._closed:
            self._parked.add(session)
            fields = {"session": session.session_id.hex(), "jobs": len(session.jobs)}
            log.info("session waits for its agent", **fields)
        else:
            session.end()

    def _forget(self, agent: ConnectedAgent) -> bool:
        for agents in (self._agents, self._retired):
            if agents.get(agent.public_key) is agent:
                del agents[agent.public_key]
                return True
        return False

    def pick(
        self, model_id: str, operation: Operation, tried: Iterable[bytes] = ()
    ) -> ConnectedAgent | ErrorCode:
        """The agent for a request, or why there is none; the keys already tried are left out."""
        if self._draining is not None:
            return ErrorCode.DRAINING
        left_out = set(tried)
        untried = (agent for key, agent in self._agents.items() if key not in left_out)
        chosen = choose_agent(untried, model_id, operation)
        if chosen is ErrorCode.MODEL_NOT_LOADED and not left_out and self._expects(model_id):
            return ErrorCode.OUT_OF_CAPACITY
        if isinstance(chosen, ConnectedAgent):
            self._remember(model_id)
        return chosen

    def _remember(self, model_id: str) -> None:
        self._served_at.pop(model_id, None)
        self._served_at[model_id] = self._clock()
        if len(self._served_at) > MAX_REMEMBERED_MODELS:
            del self._served_at[next(iter(self._served_at))]

    def _expects(self, model_id: str) -> bool:
        """Whether the model may soon be served again: worth asking then."""
        known_at = self._served_at.get(model_id, None if self._agents else self._started_at)
        if known_at is not None and self._clock() - known_at < MODEL_GRACE_S:
            return True
        return any(
            session.offers is not None and model_id in session.offers.models
            for session in self._parked
        )

    def models(self, wire_format: WireFormat) -> list[str]:
        """Every model that somebody offers in this format, sorted."""
        found: set[str] = set()
        for agent in self._agents.values():
            if agent.offers is not None:
                found |= agent.offers.models_for(wire_format)
        return sorted(found)

    def snapshot(self) -> list[AgentSnapshot]:
        """Every connected agent as it stands now, by public key."""
        agents = [*self._agents.values(), *self._retired.values()]
        agents.sort(key=lambda agent: (agent.public_key, agent.retired))
        return [self._snapshot_of(agent) for agent in agents]

    def detached_sessions(self) -> list[DetachedSnapshot]:
        """Every session that waits for its agent, the oldest first."""
        return [
            DetachedSnapshot(
                public_key=base64.b64encode(session.public_key).decode(),
                session_id=session.session_id.hex(),
                jobs=len(session.jobs),
                retired=session.retired,
            )
            for session in self._parked
        ]

    def _snapshot_of(self, agent: ConnectedAgent) -> AgentSnapshot:
        offers, heard = agent.offers, agent.last_heartbeat
        models = {} if offers is None else offers.models
        return AgentSnapshot(
            public_key=agent.name,
            models={model: tuple(sorted(operations)) for model, operations in models.items()},
            capacity=0 if offers is None else offers.capacity,
            in_flight=agent.in_flight,
            draining=agent.draining,
            heartbeat=agent.heartbeat,
            heartbeat_age_s=None if heard is None else self._clock() - heard,
            unknown_frames=agent.unknown_frames,
            retired=agent.retired,
        )

    def ask_to_drain(self, reason: str) -> None:
        """Tell every agent that the coordinator is going away, and pick none any more.

        Until `close`, agents may still come back for the jobs of a lost session.
        """
        self._draining = reason
        for agent in [*self._agents.values(), *self._retired.values()]:
            agent.ask_to_drain(reason)

    def close(self) -> None:
        """Nobody may come back any more: the jobs of lost sessions end."""
        self._closed = True
        self._parked.end_all()
