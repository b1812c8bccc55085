"""Creates `Welcome`, and the `Rejected` for a key in use."""

from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.frames import Rejected, Welcome
from provider_agent.protocol.limits import MAX_MESSAGE_TO_COORDINATOR_BYTES


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
