"""The beginning of the body of a response that reports an error with its status."""

import asyncio
from typing import Final

from msgspec import Struct

from provider_agent.adapters.http.client import ResponseHead, ResponseSource
from provider_agent.protocol.limits import MAX_ERROR_BODY_BYTES

ERROR_BODY_TIMEOUT_S: Final = 10.0
"""How long the body may take. Without a body, the status still reports the error."""


class ErrorResponse(Struct, frozen=True):
    """A response without success status.

    Attributes:
        head: its status and headers.
        body: what arrived of its body in time, up to `MAX_ERROR_BODY_BYTES`.
    """

    head: ResponseHead
    body: bytes


class ErrorBody:
    """Collects the body, and stops the response at the limit or after the timeout.

    Args:
        head: the head of the response.
        source: the response.
    """

    def __init__(self, head: ResponseHead, source: ResponseSource) -> None:
        self._head = head
        self._source = source
        self._body = bytearray()
        self._timer = asyncio.get_running_loop().call_later(ERROR_BODY_TIMEOUT_S, source.stop)

    def receive_data(self, data: bytes) -> None:
        """Add the next bytes of the body."""
        self._body += data[: MAX_ERROR_BODY_BYTES - len(self._body)]
        if len(self._body) >= MAX_ERROR_BODY_BYTES:
            self._source.stop()

    def finish(self) -> ErrorResponse:
        """Return the response; called once, after its end or failure."""
        self._timer.cancel()
        return ErrorResponse(self._head, bytes(self._body))
