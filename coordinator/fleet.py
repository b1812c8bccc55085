"""The agents that are connected now."""

from collections.abc import Callable, Iterable

from aiohttp import WSCloseCode
from msgspec import Struct

from coordinator.access import admits_agent
from coordinator.connected_agent import ConnectedAgent, Goodbye
from coordinator.offers import choose
from coordinator.settings import CoordinatorSettings
from protocol.errors import ErrorCode
from protocol.formats import Operation, WireFormat
from protocol.frames import Heartbeat, Hello, Rejected

FULL_RETRY_MS = 30_000
"""When an agent that found no seat may ask again."""


class AgentSnapshot(Struct, frozen=True):
    """How one agent stands now.

    Attributes:
        public_key: its identity, base64.
        models: each model and its operations.
        capacity: jobs it takes at once.
        in_flight: jobs given to it whose end has not come.
        draining: whether it takes no more jobs.
        heartbeat: its last report; None before the first.
        heartbeat_age_s: how old that is.
        unknown_frames: frames this version did not know.
    """

    public_key: str
    models: dict[str, tuple[str, ...]]
    capacity: int
    in_flight: int
    draining: bool
    heartbeat: Heartbeat | None
    heartbeat_age_s: float | None
    unknown_frames: int


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
        self._closed = False

    def __repr__(self) -> str:
        return f"<Fleet {list(self._agents.values())}>"

    def __len__(self) -> int:
        return len(self._agents)

    def admit(self, agent: ConnectedAgent, hello: Hello) -> Rejected | None:
        """Why this agent may not join; None: it may."""
        settings = self._settings
        if not admits_agent(hello, settings.enrollment_codes, settings.agent_keys):
            return Rejected(
                "not_enrolled",
                "This coordinator knows neither the agent's public key nor its enrolment code.",
            )
        is_new = agent.public_key not in self._agents
        if self._closed or (is_new and len(self._agents) >= settings.max_agents):
            return Rejected(
                "too_many_connections", "This coordinator takes no more agents.", FULL_RETRY_MS
            )
        return None

    def join(self, agent: ConnectedAgent) -> None:
        """Take the agent in; an older connection of the same key is closed.

        The newer one wins: after a lost link the older is only what the kernel has not noticed yet.
        """
        older = self._agents.get(agent.public_key)
        self._agents[agent.public_key] = agent
        if older is not None:
            older.close(Goodbye(WSCloseCode.OK, "replaced by a newer connection of the same key"))

    def leave(self, agent: ConnectedAgent) -> None:
        """Forget the agent, unless a newer connection has its place."""
        if self._agents.get(agent.public_key) is agent:
            del self._agents[agent.public_key]

    def pick(
        self, model_id: str, operation: Operation, tried: Iterable[ConnectedAgent] = ()
    ) -> ConnectedAgent | ErrorCode:
        """The agent for a request, or why there is none; those already tried are left out."""
        if self._closed:
            return ErrorCode.DRAINING
        left_out = set(tried)
        untried = (agent for agent in self._agents.values() if agent not in left_out)
        return choose(untried, model_id, operation)

    def models(self, wire_format: WireFormat) -> list[str]:
        """Every model that somebody offers in this format, sorted."""
        found: set[str] = set()
        for agent in self._agents.values():
            if agent.offers is not None:
                found |= agent.offers.speaking(wire_format)
        return sorted(found)

    def snapshot(self) -> list[AgentSnapshot]:
        """Every agent as it stands now, by public key."""
        return [self._snapshot_of(self._agents[key]) for key in sorted(self._agents)]

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
        )

    def ask_to_drain(self, reason: str) -> None:
        """Tell every agent that the coordinator is going away, and pick none any more."""
        self._closed = True
        for agent in self._agents.values():
            agent.ask_to_drain(reason)
