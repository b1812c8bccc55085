"""Read-only views of agents and detached sessions, for statistics and tests."""

from msgspec import Struct

from provider_agent.protocol.frames import Heartbeat


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
        retired: a newer connection of its key gets the new jobs.
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


class DetachedSnapshot(Struct, frozen=True):
    """A lost session that waits for its agent.

    Attributes:
        public_key: whose it is, base64.
        session_id: its name, hex.
        jobs: how many wait with it.
        retired: a newer connection of its key gets the new jobs.
    """

    public_key: str
    session_id: str
    jobs: int
    retired: bool
