"""Validates a copy of a response's bytes: did it succeed, and how many tokens did it use?

HTTP 200 does not mean success: servers report errors inside a stream, or end it early. The result
does not depend on how the bytes were split into chunks, and is also known for a response that was
cancelled or broke off.
"""

from functools import lru_cache
from typing import Protocol

from provider_agent.adapters.responses.body_validator import BodyValidator
from provider_agent.adapters.responses.stream_validator import StreamValidator
from provider_agent.adapters.responses.validation_result import ValidationResult
from provider_agent.protocol.formats import Operation


class ResponseValidator(Protocol):
    """Receives a copy of every byte of one response."""

    def receive_data(self, data: bytes) -> None:
        """Add the next bytes of the response."""
        ...

    def is_terminated(self) -> bool:
        """Return whether the bytes so far are a success whose last event is the final one.

        Too slow to be called for each read: it takes about 20 µs.
        """
        ...

    def result(self) -> ValidationResult:
        """Return the outcome of the bytes so far."""
        ...


@lru_cache(maxsize=64)
def is_event_stream(content_type: str) -> bool:
    """Whether a response of this content type is server-sent events."""
    return content_type.partition(";")[0].strip().lower() == "text/event-stream"


def validator_for(
    operation: Operation, content_type: str, *, estimated_start: bool = False
) -> ResponseValidator:
    """Create the validator for a response of this content type.

    Args:
        operation: the operation of the response.
        content_type: the content type of the response.
        estimated_start: whether `message_start` only estimates the tokens of the prompt.
    """
    if is_event_stream(content_type):
        return StreamValidator(operation, estimated_start=estimated_start)
    return BodyValidator()
