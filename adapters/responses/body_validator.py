"""Validates a response that is one JSON object; big values of a long one are left out."""

from collections import deque
from typing import Final

from provider_agent.adapters.responses.events import ResponseFailure, decode_event, event_failure
from provider_agent.adapters.responses.json_outline import JsonOutline
from provider_agent.adapters.responses.output_size import least_tokens_in_body
from provider_agent.adapters.responses.usage import merge_usage
from provider_agent.adapters.responses.validation_result import ValidationResult
from provider_agent.protocol.errors import ErrorCode

LONG_BODY_BYTES: Final = 256 * 1024
"""Big values of a longer JSON response are left out."""

BODY_BYTES: Final = 2 * 1024 * 1024
"""A JSON response that is longer even without its big values counts as a success of unknown usage.
The rest is decoded in one call, which blocks the event loop: 16 ms for 2 MiB of choices, 48 ms for
8 MiB. In valid responses, the longest rest is the token ids of a prompt (`return_token_ids` of
vLLM): about 300,000 fit."""


class BodyValidator:
    """Validates a response that is one JSON object."""

    def __init__(self) -> None:
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._outline: JsonOutline | None = None
        """Shortens a long body."""
        self._unread: deque[bytes] = deque()
        """What `_outline` has not received yet. Two pieces at a time keep each call short."""

    def receive_data(self, data: bytes) -> None:
        """Add the next bytes of the response."""
        if self._kept_bytes > BODY_BYTES:
            return
        if self._outline is None and self._kept_bytes + len(data) > LONG_BODY_BYTES:
            self._outline = JsonOutline()
            self._unread.extend(self._kept)
            self._kept, self._kept_bytes = [], 0
        if self._outline is None:
            self._keep(data)
        else:
            self._unread.append(data)
            self._shorten(self._outline, 2)

    def _shorten(self, outline: JsonOutline, pieces: int) -> None:
        for _ in range(min(pieces, len(self._unread))):
            self._keep(outline.receive_data(self._unread.popleft()))

    def _keep(self, data: bytes) -> None:
        self._kept.append(data)
        self._kept_bytes += len(data)

    def is_terminated(self) -> bool:
        """Return False: a JSON response has no events."""
        return False

    def result(self) -> ValidationResult:
        """Return a success for one JSON object without an error, or for more than `BODY_BYTES`."""
        if self._outline is not None:
            self._shorten(self._outline, len(self._unread))
        if self._kept_bytes > BODY_BYTES:
            return ValidationResult(between_events=False)
        body = b"".join(self._kept)
        event = decode_event(body)
        if event is None:
            text = "the server's response is not a JSON object"
            failure = ResponseFailure(ErrorCode.INVALID_RESPONSE, text)
            return ValidationResult(between_events=not body, failure=failure)
        error = event_failure(b"", body, event)
        usage = merge_usage(event.usage)
        is_certain = usage.output_tokens is not None and len(event.choices or ()) <= 1
        return ValidationResult(
            usage,
            0 if is_certain else least_tokens_in_body(body),
            error_relayed=error is not None,
            between_events=False,
            failure=error,
        )
