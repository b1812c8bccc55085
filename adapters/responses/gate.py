"""Holds the start of a response back until it shows output or an error.

Until the first byte of output reaches the client, another backend can run the job. So a response
that starts with an error, or ends without output, causes a failover that the client does not see.
Comments, pings and `[DONE]` do not count as output.
"""

from enum import StrEnum
from typing import Final

from provider_agent.adapters.responses.events import ResponseFailure, event_failure

MAX_HELD_BYTES: Final = 64 * 1024
"""If more than this is held without a decision, the response counts as output."""


class GateState(StrEnum):
    """What the start of a response shows."""

    UNDECIDED = "undecided"
    OUTPUT = "output"
    ERROR = "error"


class EventStreamGate:
    """The response gate for server-sent events. The first event with data decides.

    Attributes:
        held: the bytes so far.
        failure: the error in the first event.
    """

    def __init__(self) -> None:
        self.held = b""
        self.failure: ResponseFailure | None = None
        self._parsed_bytes = 0
        self._event_name = b""

    def receive_data(self, data: bytes) -> GateState:
        """Add the next bytes and return what the start of the response shows."""
        self.held += data
        while (end := self.held.find(b"\n", self._parsed_bytes)) >= 0:
            line = self.held[self._parsed_bytes : end].rstrip(b"\r")
            self._parsed_bytes = end + 1
            name, _, value = line.partition(b":")
            if name == b"event":
                self._event_name = value.strip()
            elif name == b"data" and self._event_name != b"ping" and value.strip() != b"[DONE]":
                self.failure = event_failure(self._event_name, value.strip())
                return GateState.ERROR if self.failure else GateState.OUTPUT
            elif not line:
                self._event_name = b""
        return GateState.OUTPUT if len(self.held) > MAX_HELD_BYTES else GateState.UNDECIDED


class JsonGate:
    """The response gate for a JSON response, which is held until it ends or exceeds the limit.

    Attributes:
        held: the bytes so far.
        failure: always None; the validator finds an error in a complete body.
    """

    def __init__(self) -> None:
        self.held = b""
        self.failure: ResponseFailure | None = None

    def receive_data(self, data: bytes) -> GateState:
        """Add the next bytes and return what the start of the response shows."""
        self.held += data
        return GateState.OUTPUT if len(self.held) > MAX_HELD_BYTES else GateState.UNDECIDED


ResponseGate = EventStreamGate | JsonGate
