"""A dialect under test, and what it reports."""

from provider_agent.protocol.frames import AgentFrame, CoordinatorFrame
from provider_agent.protocol.usepod.dialect import UsepodDialect
from provider_agent.protocol.usepod.job_ids import JobIds

AGENT_VERSION = "1.2.3"


class DialectHarness:
    """One connection after the other of the same process.

    Attributes:
        dialect: the dialect of the current connection.
        skipped: the types of the skipped messages.
    """

    def __init__(self) -> None:
        self.skipped: list[int | str] = []
        self._job_ids = JobIds()
        self.reconnect()

    def reconnect(self) -> None:
        self.dialect = UsepodDialect(self._job_ids, AGENT_VERSION)

    def receive(self, message: bytes | str) -> list[CoordinatorFrame]:
        decoded = self.dialect.decode_from_coordinator(message, self.dialect.max_to_agent_bytes)
        self.skipped += decoded.unknown_types
        return decoded.frames

    def send(self, frame: AgentFrame) -> str:
        """Return the message of a frame; "" if it has none."""
        return b"".join(self.dialect.encode_messages([frame])).decode()
