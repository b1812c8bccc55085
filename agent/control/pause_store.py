"""Keeps pauses across restarts, in a file beside the identity key."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from provider_agent.agent.availability.availability import Pause
from provider_agent.agent.availability.hours import AGENT
from provider_agent.agent.private_file import write_private_file
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)


class PauseStore:
    """The file with the pauses of one agent; it exists only while there are pauses.

    Args:
        key_path: the file of the agent's key.
    """

    def __init__(self, key_path: Path) -> None:
        self.path = key_path.with_name(f"{key_path.name}.pauses")

    def load(self) -> dict[str, Pause]:
        """Return the pauses by target.

        If the file cannot be read, the agent is paused: it must not serve against the operator's
        decision.
        """
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=dict[str, Pause])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "damaged"
            what_to_do = "`provider-agent resume` ends the pause; or remove the file and restart"
            log.warning(
                "pauses not read", path=str(self.path), reason=reason, what_to_do=what_to_do
            )
            return {AGENT: Pause()}

    def save(self, pauses: Mapping[str, Pause]) -> str:
        """Write the pauses; return why they do not survive a restart, "" if they do."""
        try:
            if pauses:
                write_private_file(self.path, msgspec.json.encode(pauses), replace=True)
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            return f"{self.path} cannot be written: {error.strerror}"
        return ""
