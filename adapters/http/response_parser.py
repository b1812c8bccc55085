"""Parses the responses of one connection with `httptools` (llhttp).

The callbacks only record what they see: the connection acts on it after each read.
"""

from collections.abc import Callable
from typing import Final

from httptools import HttpResponseParser

from provider_agent.adapters.http import failures
from provider_agent.adapters.http.client import ResponseHead, ResponseHeaders
from provider_agent.protocol.limits import KIB

MAX_HEAD_BYTES: Final = 64 * KIB
"""The limit of all heads of a response, informational ones and trailers too. A server could send
them forever."""

_HEADER_BYTES: Final = 32
"""Counted for each header beside its name and value, as in HTTP/2 (RFC 9113, section 6.5.2): 20,000
short headers would block the event loop for 30 ms."""

_LEAST_HEAD_BYTES: Final = len(b"HTTP/1.1 100\r\n\r\n")
_SWITCHING_PROTOCOLS: Final = 101


class ResponseParser:
    """Parses one response after the other.

    The caller passes each read to `feed`, which raises `HttpParserError` if it violates HTTP; what
    precedes the violation is recorded.

    Attributes:
        feed: parses the next bytes.
        pieces: the data that was parsed; the caller removes it.
        changed: whether the head or the response has become complete; the caller resets it.
        head: the head of the response; None before it is complete.
        complete: whether the response is complete.
        keep_alive: whether the server keeps the connection open after this response.
    """

    __slots__ = (
        "_head_bytes",
        "_headers",
        "_parser",
        "changed",
        "complete",
        "feed",
        "head",
        "keep_alive",
        "on_body",
        "pieces",
    )

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.on_body = self.pieces.append  # called by httptools, like the other `on_` methods
        self._parser = HttpResponseParser(self)
        # What aiohttp accepts too: line feeds without carriage return, spaces behind a chunk size,
        # and odd characters in the value of a header.
        self._parser.set_dangerous_leniencies(
            lenient_headers=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )
        self.feed: Callable[[bytes | memoryview], None] = self._parser.feed_data
        self.reset()

    def reset(self) -> None:
        """Expect the next response."""
        self.head: ResponseHead | None = None
        self.complete = self.keep_alive = self.changed = False
        self._headers: list[tuple[str, str]] = []
        self._head_bytes = 0

    def close(self) -> None:
        """Break the reference cycle with httptools' parser; nothing can be parsed afterwards."""
        self.feed = _ignore
        del self._parser

    def on_message_begin(self) -> None:
        """Refuse a response behind the last one: it has no request."""
        if self.complete:
            raise failures.malformed_response()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Record a header, or ignore a trailer."""
        # As `_count`, without another call for each header.
        self._head_bytes += len(name) + len(value) + _HEADER_BYTES
        if self._head_bytes > MAX_HEAD_BYTES:
            raise failures.malformed_response()
        if self.head is None:
            text = value.decode("latin-1").strip(" \t")
            self._headers.append((name.decode("latin-1"), text))

    def on_headers_complete(self) -> None:
        """Record the head, or forget an informational one."""
        self._count(_LEAST_HEAD_BYTES)
        status = self._parser.get_status_code()
        headers, self._headers = self._headers, []
        if status < 100 or status == _SWITCHING_PROTOCOLS:
            raise failures.malformed_response()
        if status >= 200:
            self.head = ResponseHead(status, ResponseHeaders(headers))
            self.keep_alive = self._parser.should_keep_alive()
            self.changed = True

    def on_message_complete(self) -> None:
        """Record the end of the response, unless it is informational."""
        if self.head is not None:
            self.complete = self.changed = True

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            raise failures.malformed_response()

    @property
    def is_chunked(self) -> bool:
        """Whether the body ends with an empty chunk."""
        codings = self._codings()
        return bool(codings) and codings[-1].rpartition(",")[2].strip().lower() == "chunked"

    @property
    def ends_with_connection(self) -> bool:
        """Whether the body has no length, and ends with the connection (RFC 9112, section 6.3)."""
        if self.head is None or self.is_chunked:
            return False
        return bool(self._codings()) or "content-length" not in self.head.headers

    def _codings(self) -> list[str]:
        """Return the values of all headers `Transfer-Encoding`."""
        headers = [] if self.head is None else self.head.headers.items()
        return [value for name, value in headers if name.lower() == "transfer-encoding"]


def _ignore(_data: bytes | memoryview) -> None:
    """Ignore what a closed connection still receives."""
