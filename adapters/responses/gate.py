"""Holds the start of a response back until it shows output or an error.

Until the first byte of output reaches the client, another backend can run the job. So a response
that starts with an error, or ends without output, causes a failover that the client does not see.
Comments, pings, `[DONE]` and the first events of Responses (`response.created`) are not output.
"""

from enum import StrEnum
from typing import Final

from provider_agent.adapters.responses.completeness import has_error_word
from provider_agent.adapters.responses.event_parser import EventParser
from provider_agent.adapters.responses.events import (
    RESPONSES_LIFECYCLE,
    ResponseFailure,
    decode_event,
    event_failure,
)
from provider_agent.adapters.responses.validator import is_event_stream
from provider_agent.protocol.formats import Operation

MAX_HELD_BYTES: Final = 64 * 1024
"""If more than this is held without a decision, the response counts as output."""

RESPONSES_HELD_BYTES: Final = 2 * 1024 * 1024
"""The same for Responses, which begins with two events that repeat the instructions and tools."""

_LF, _CR = b"\n\r"


class GateState(StrEnum):
    """What the start of a response shows."""

    UNDECIDED = "undecided"
    OUTPUT = "output"
    ERROR = "error"


class EventStreamGate:
    """The response gate for server-sent events. The first event with output or an error decides.

    Args:
        max_held_bytes: if more than this is held without a decision, the response counts as output.

    Attributes:
        held: the bytes so far.
        failure: the error, if that event is one.
    """

    def __init__(self, max_held_bytes: int = MAX_HELD_BYTES) -> None:
        self.held = b""
        self.failure: ResponseFailure | None = None
        self._parser: EventParser | None = None
        self._max_held_bytes = max_held_bytes

    def receive_data(self, data: bytes) -> GateState:
        """Add the next bytes and return what the start of the response shows."""
        if self._parser is None:
            if _begins_with_output(data):
                self.held = data
                return GateState.OUTPUT
            self._parser = EventParser()
        self.held += data
        for event in self._parser.receive_data(data):
            if event.name == b"ping" or event.data.strip() == b"[DONE]":
                continue
            decoded = decode_event(event.data, event.name)
            if decoded is not None and decoded.type in RESPONSES_LIFECYCLE:
                continue
            self.failure = event_failure(event.name, event.data, decoded)
            return GateState.ERROR if self.failure else GateState.OUTPUT
        return GateState.OUTPUT if len(self.held) > self._max_held_bytes else GateState.UNDECIDED


def _begins_with_output(data: bytes) -> bool:
    """Whether the first event is certainly output; fast. Most streams begin with such an event."""
    end = data.find(b"\n\n")
    if end < 0 or not data.startswith(b"data: {"):
        return False
    line = data[6:end]
    # What is not output has one of these words, unless an escape hides it.
    return not (
        has_error_word(line)
        or line.find(b"response.") >= 0
        or line.find(b"\\u") >= 0
        or _LF in line
        or _CR in line
    )


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


def gate_for(operation: Operation, content_type: str) -> ResponseGate:
    """Create the gate for a response of this content type."""
    if not is_event_stream(content_type):
        return JsonGate()
    is_responses = operation is Operation.RESPONSES
    return EventStreamGate(RESPONSES_HELD_BYTES if is_responses else MAX_HELD_BYTES)
