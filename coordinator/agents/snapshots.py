"""Read-only views of connected agents and detached sessions, for statistics and tests."""

import base64

from msgspec import Struct

from provider_agent.coordinator.agents.connected_agent import ConnectedAgent
from provider_agent.coordinator.sessions.detached_session import DetachedSession
from provider_agent.protocol.frames import Heartbeat
from provider_agent.protocol.limits import SUBPROTOCOL


class AgentSnapshot(Struct, frozen=True):
    """The current state of one connected agent.

    Attributes:
        public_key: the agent's identity, in base64.
        models: model id → the operations offered for it.
        capacity: how many jobs the agent executes at once.
        in_flight: how many jobs have no end yet.
        draining: whether the agent accepts no more jobs.
        heartbeat: the latest `Heartbeat`; None before the first.
        heartbeat_age_s: seconds since `heartbeat` arrived; None before the first.
        unknown_frames: how many received frames had a type that this version does not know.
        retired: whether another connection of the same key receives the new jobs.
        dialect: the wire encoding of its connection.
    """

    public_key: str
    models: dict[str, tuple[str, ...]]
    capacity: int
    in_flight: int
    draining: bool
    heartbeat: Heartbeat | None
    heartbeat_age_s: float | None
    unknown_frames: int
    retired: bool = False
    dialect: str = SUBPROTOCOL


class DetachedSnapshot(Struct, frozen=True):
    """The current state of one detached session.

    Attributes:
        public_key: the identity of the session's agent, in base64.
        session_id: the session's id, in hexadecimal.
        jobs: how many jobs the session owns.
        retired: whether another process has replaced the session's process.
    """

    public_key: str
    session_id: str
    jobs: int
    retired: bool


class ClusterSnapshot(Struct, frozen=True):
    """The current state of this coordinator in its cluster.

    Attributes:
        connected: whether the other coordinators can be reached.
        coordinators: how many other coordinators are known.
        agents: how many agents are connected to them.
        sent_jobs: how many jobs of clients here run on these agents.
        received_jobs: how many jobs of the other coordinators run on agents here.
    """

    connected: bool = False
    coordinators: int = 0
    agents: int = 0
    sent_jobs: int = 0
    received_jobs: int = 0


class PeerSnapshot(Struct, frozen=True):
    """What is known of another coordinator of the cluster.

    Attributes:
        coordinator: its id, in hexadecimal.
        agents: how many agents are connected to it.
        models: how many distinct models they offer.
        silence_s: seconds since its last snapshot arrived.
        sent_jobs: how many jobs of clients here run on its agents.
        received_jobs: how many jobs of its clients run on agents here.
    """

    coordinator: str
    agents: int
    models: int
    silence_s: float
    sent_jobs: int
    received_jobs: int


def snapshot_of_agent(agent: ConnectedAgent) -> AgentSnapshot:
    """Return the current state of an agent."""
    offers = agent.offers
    models = {} if offers is None else offers.models
    return AgentSnapshot(
        public_key=agent.name,
        models={model: tuple(sorted(operations)) for model, operations in models.items()},
        capacity=0 if offers is None else offers.capacity,
        in_flight=agent.in_flight,
        draining=agent.draining,
        heartbeat=agent.heartbeat.frame,
        heartbeat_age_s=agent.heartbeat.age_s,
        unknown_frames=agent.unknown_frames,
        retired=agent.retired,
        dialect=agent.dialect_name,
    )


def snapshot_of_session(session: DetachedSession) -> DetachedSnapshot:
    """Return the current state of a detached session."""
    return DetachedSnapshot(
        public_key=base64.b64encode(session.public_key).decode(),
        session_id=session.session_id.hex(),
        jobs=len(session.jobs),
        retired=session.retired,
    )
