"""The coordinator's side of an agent's handshake, from `Hello` to `Welcome` or `Rejected`."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from provider_agent.coordinator.agents.close_reason import link_lost
from provider_agent.coordinator.agents.registry import AgentRegistry
from provider_agent.coordinator.sessions.detached_session import DetachedSession
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
from provider_agent.protocol.frames import Hello, Rejected, Welcome
from provider_agent.protocol.limits import MAX_MESSAGE_TO_COORDINATOR_BYTES
from provider_agent.protocol.state import State

if TYPE_CHECKING:
    from provider_agent.coordinator.agents.connected_agent import ConnectedAgent


class Handshake:
    """Decides whether an agent is admitted, and with which session.

    Two checks take up to some seconds: whether another agent with the same key is alive, and
    whether other coordinators know the session.

    Args:
        protocol: the protocol state of the connection; a `Rejected` is sent through it.
        registry: knows the other agents and the sessions.
        clock: monotonic, in seconds.
        remote: the agent's network address.
        session_id: the id of the session, unless the agent resumes an older one.
        is_over: returns whether the connection has ended.
        admitted: called with `Hello` and the session that is resumed, None for a new one.
        rejected_late: called after a rejection that followed a check.
        replaced: called if the agent has connected again during a check.
    """

    def __init__(
        self,
        protocol: CoordinatorProtocol,
        registry: AgentRegistry,
        clock: Callable[[], float],
        *,
        remote: str,
        session_id: bytes,
        is_over: Callable[[], bool],
        admitted: Callable[[Hello, DetachedSession | None], None],
        rejected_late: Callable[[], None],
        replaced: Callable[[], None],
    ) -> None:
        self._protocol = protocol
        self._registry = registry
        self._clock = clock
        self._remote = remote
        self._session_id = session_id
        self._is_over = is_over
        self._admitted = admitted
        self._rejected_late = rejected_late
        self._replaced = replaced

    def __repr__(self) -> str:
        return f"<Handshake {self._remote} {self._protocol.state}>"

    def start(self, hello: Hello) -> None:
        """Process a `Hello` whose signature is verified."""
        rejected = self._registry.admit(hello, self._remote)
        if rejected is not None:
            self._protocol.reject(rejected)
        elif (holder := self._registry.key_holder(hello)) is not None:
            # If the holder's process crashed, the coordinator may not have noticed it yet.
            holder.check_alive(lambda alive: self._holder_checked(hello, holder, alive=alive))
        else:
            self._find_session(hello)

    @property
    def _is_pending(self) -> bool:
        return not self._is_over() and self._protocol.state is State.AUTHENTICATED

    def _holder_checked(self, hello: Hello, holder: "ConnectedAgent", *, alive: bool) -> None:
        """Admit this agent unless another one with its key is connected.

        The other one is `holder`, or an agent that was admitted during the check.
        """
        if not self._is_pending:
            return
        if not alive:
            holder.leave(keep_session=True)
            holder.close(link_lost("no answer to a ping"))
        if (current := self._registry.key_holder(hello)) is not None:
            connected_s = self._clock() - current.connected_at
            self._protocol.reject(key_in_use(current.remote, current.agent_version, connected_s))
            self._rejected_late()
        else:
            self._find_session(hello)

    def _find_session(self, hello: Hello) -> None:
        """Admit the agent with its session, which may be at another coordinator."""
        detached = self._registry.claim(hello)
        if detached is None and self._registry.take_over(
            hello, self._session_id, lambda session: self._taken_over(hello, session)
        ):
            return
        self._admitted(hello, detached)

    def _taken_over(self, hello: Hello, session: DetachedSession | None) -> None:
        if session is None:
            self._replaced()
        elif self._is_pending:
            self._admitted(hello, session if session.jobs else None)
        elif session.jobs:
            self._registry.keep(session)


def welcome(settings: CoordinatorSettings, provider_id: str, session_id: bytes) -> Welcome:
    """Create the frame that admits an agent, without resumed jobs."""
    return Welcome(
        provider_id=provider_id,
        session_id=session_id,
        heartbeat_ms=settings.heartbeat_ms,
        resume_ms=settings.resume_ms,
        window_bytes=settings.window_bytes,
        max_message_bytes=MAX_MESSAGE_TO_COORDINATOR_BYTES,
    )


def key_in_use(remote: str, agent_version: str, connected_s: float) -> Rejected:
    """Create the frame that rejects an agent because another agent with its key is connected.

    Args:
        remote: the network address of the connected agent.
        agent_version: the version of that agent.
        connected_s: seconds since that agent connected.
    """
    return Rejected(
        "key_in_use",
        f"An agent with this key has been connected from {remote} for {connected_s:.0f} s "
        f"(version {agent_version}).",
    )
