"""The interface through which connections use the registry of agents."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from provider_agent.coordinator.connections.limited_log import LimitedLog
from provider_agent.coordinator.sessions.detached_session import DetachedSession
from provider_agent.protocol.frames import Hello, JobEnd, Rejected

if TYPE_CHECKING:
    from provider_agent.coordinator.agents.connected_agent import ConnectedAgent


class AgentRegistry(Protocol):
    """Admits agents and keeps track of them."""

    def log_of(self, public_key: bytes) -> LimitedLog:
        """Return the log of an admitted agent, which limits the lines of each agent."""
        ...

    def admit(self, hello: Hello, address: str) -> Rejected | None:
        """Return why the agent is rejected, or None; `address` is its network address."""
        ...

    def key_holder(self, hello: Hello) -> "ConnectedAgent | None":
        """Return the connected agent with the key of `hello`, unless `hello` may replace it."""
        ...

    def claim(self, hello: Hello) -> DetachedSession | None:
        """Remove and return the session that `hello` resumes, if there is one."""
        ...

    def take_over(
        self, hello: Hello, session_id: bytes, done: Callable[[DetachedSession | None], None]
    ) -> bool:
        """Ask other coordinators for the session that `hello` resumes; see `RemoteAgents`."""
        ...

    def keep(self, session: DetachedSession) -> None:
        """Store a session whose agent has disconnected before it was admitted."""
        ...

    def join(self, agent: "ConnectedAgent") -> None:
        """Add an admitted agent."""
        ...

    def leave(
        self, agent: "ConnectedAgent", session: DetachedSession, *, keep_session: bool
    ) -> None:
        """Remove an agent whose connection ends, whether it has joined or not.

        Args:
            agent: the agent whose connection ends.
            session: the agent's session.
            keep_session: whether the agent may resume the session; otherwise the session ends.
        """
        ...

    def job_ended(self, public_key: bytes, model_id: str, end: JobEnd, duration_s: float) -> None:
        """Record how a job ended, also one whose response was no longer needed.

        Args:
            public_key: the agent's identity.
            model_id: the model that ran the job.
            end: how it ended.
            duration_s: seconds since the job was sent, by the coordinator's clock.
        """
        ...

    def offers_changed(self, public_key: bytes, model_ids: Iterable[str]) -> None:
        """Forget the agent's refusals of models whose offers are new; try to send requests."""
        ...

    def capacity_changed(self) -> None:
        """Try to send waiting requests, because an agent may have room now."""
        ...
