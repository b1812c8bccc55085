"""The beginning of a response, which is held back until it shows whether output follows.

Until a job's first byte of output nothing has been promised to anybody: a server that begins with
an error, or ends without a word, can be replaced by another. Comments, pings and a terminal marker
with nothing before it are no output.
"""

from enum import StrEnum
from typing import Final

from provider_agent.adapters.responses.events import Failure, event_failure

OPENING_BYTES: Final = 64 * 1024
"""The most that is held back: a longer first event, or a longer answer in one piece, is output."""


class GateState(StrEnum):
    """What the beginning shows."""

    UNDECIDED = "undecided"
    OUTPUT = "output"
    ERROR = "error"


class StreamGate:
    """For server-sent events: decided by the first event that carries data."""

    def __init__(self) -> None:
        self.held = b""
        self.failure: Failure | None = None
        self._looked_at = 0
        self._event = b""

    def feed(self, data: bytes) -> GateState:
        """More of the response."""
        self.held += data
        while (end := self.held.find(b"\n", self._looked_at)) >= 0:
            line = self.held[self._looked_at : end].rstrip(b"\r")
            self._looked_at = end + 1
            name, _, value = line.partition(b":")
            if name == b"event":
                self._event = value.strip()
            elif name == b"data" and self._event != b"ping" and value.strip() != b"[DONE]":
                self.failure = event_failure(self._event, value.strip())
                return GateState.ERROR if self.failure else GateState.OUTPUT
            elif not line:
                self._event = b""
        return GateState.OUTPUT if len(self.held) > OPENING_BYTES else GateState.UNDECIDED


class BodyGate:
    """For an answer in one piece: whoever asked for one waits for its end anyway."""

    def __init__(self) -> None:
        self.held = b""
        self.failure: Failure | None = None

    def feed(self, data: bytes) -> GateState:
        """More of the response."""
        self.held += data
        return GateState.OUTPUT if len(self.held) > OPENING_BYTES else GateState.UNDECIDED


ResponseGate = StreamGate | BodyGate
