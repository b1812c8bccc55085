"""Responses as bytes, and what both HTTP clients make of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from provider_agent.adapters.errors import BackendError, InvalidResponse, Transport
from tests.kit.raw_server import AfterReply, chunked

OK: Final = b"HTTP/1.1 200 OK\r\n"
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
CHUNKED: Final = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Case:
    """One response.

    Attributes:
        data: all bytes that the server sends.
        body: the body that arrives.
        error: the class of the error; None for a success.
        then: what the server does afterwards.
        status: the status that arrives; None if no head does.
        keeps: whether the next request uses the same connection.
        direct_only: whether aiohttp has another outcome: an error for a complete response, a
            success for a broken one, or one that depends on the split.
    """

    data: bytes
    body: bytes = b""
    error: type[BackendError] | None = None
    then: AfterReply = AfterReply.KEEP
    status: int | None = 200
    keeps: bool = False
    direct_only: bool = False


def _headers(lines: Iterable[bytes]) -> bytes:
    return b"".join(line + b"\r\n" for line in lines)


CASES: Final[dict[str, Case]] = {
    "content length": Case(OK + b"Content-Length: 5\r\n\r\nhello", b"hello", keeps=True),
    "no body": Case(OK + b"Content-Length: 0\r\n\r\n", keeps=True),
    "status without a body": Case(b"HTTP/1.1 204 No Content\r\n\r\n", status=204, keeps=True),
    "error status": Case(
        b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", b"busy", status=503, keeps=True
    ),
    "redirect": Case(
        b"HTTP/1.1 307 Moved\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", status=307, keeps=True
    ),
    "chunks": Case(CHUNKED + chunked(b"ab") + chunked(b"c") + b"0\r\n\r\n", b"abc", keeps=True),
    "chunk extension": Case(CHUNKED + b"2;x=y\r\nab\r\n0\r\n\r\n", b"ab", keeps=True),
    "trailers": Case(
        CHUNKED + chunked(b"ab") + b"0\r\nX-Sum: 1\r\nX-Other: 2\r\n\r\n", b"ab", keeps=True
    ),
    "until the connection closes": Case(OK + b"\r\nhello", b"hello", then=AfterReply.CLOSE),
    "coding other than chunked": Case(
        OK + b"Transfer-Encoding: identity\r\n\r\nhello", b"hello", then=AfterReply.CLOSE
    ),
    "connection: close": Case(
        OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nab", b"ab", then=AfterReply.CLOSE
    ),
    "close after a response with keep-alive": Case(
        OK + b"Content-Length: 2\r\n\r\nab", b"ab", then=AfterReply.CLOSE
    ),
    "HTTP/1.0": Case(b"HTTP/1.0 200 OK\r\n\r\nab", b"ab", then=AfterReply.CLOSE),
    "HTTP/1.0 with a length": Case(
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", b"ab", then=AfterReply.CLOSE
    ),
    "HTTP/1.0 with keep-alive": Case(
        b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nab",
        b"ab",
        keeps=True,
    ),
    "informational responses": Case(
        CONTINUE + b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + CHUNKED + b"0\r\n\r\n",
        keeps=True,
    ),
    "no reason phrase": Case(b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nab", b"ab", keeps=True),
    "line feeds only": Case(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nab", b"ab", keeps=True),
    "spaces behind a chunk size": Case(CHUNKED + b"2  \r\nab\r\n0\r\n\r\n", b"ab", keeps=True),
    "binary header value": Case(
        OK + b"X-Odd: \xff\x01\r\nContent-Length: 2\r\n\r\nab", b"ab", keeps=True
    ),
    "second response": Case(
        OK + b"Content-Length: 2\r\n\r\nab" + OK + b"Content-Length: 2\r\n\r\ncd", b"ab"
    ),
    "garbage behind the response": Case(
        OK + b"Content-Length: 2\r\n\r\nab\0garbage", b"ab", direct_only=True
    ),
    "nothing": Case(b"", error=Transport, then=AfterReply.CLOSE, status=None),
    "reset": Case(b"", error=Transport, then=AfterReply.RESET, status=None),
    "part of a head": Case(OK + b"Content-", error=Transport, then=AfterReply.CLOSE, status=None),
    "only informational": Case(CONTINUE, error=Transport, then=AfterReply.CLOSE, status=None),
    "short body": Case(
        OK + b"Content-Length: 5\r\n\r\nab", b"ab", Transport, then=AfterReply.CLOSE
    ),
    "no last chunk": Case(CHUNKED + chunked(b"ab"), b"ab", Transport, then=AfterReply.CLOSE),
    "no end of trailers": Case(
        CHUNKED + chunked(b"ab") + b"0\r\n", b"ab", Transport, then=AfterReply.CLOSE
    ),
    "reset within the body": Case(
        OK + b"Content-Length: 5\r\n\r\nab", b"ab", Transport, then=AfterReply.RESET
    ),
    "reset of a body without a length": Case(
        OK + b"\r\nab", b"ab", Transport, then=AfterReply.RESET, direct_only=True
    ),
    "malformed chunk size": Case(
        CHUNKED + chunked(b"ab") + b"zz\r\n", b"ab", InvalidResponse, direct_only=True
    ),
    "chunk longer than its size": Case(
        CHUNKED + b"2\r\nabcd\r\n", b"ab", InvalidResponse, direct_only=True
    ),
    "two lengths": Case(
        OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nab",
        error=InvalidResponse,
        status=None,
    ),
    "length and chunks": Case(
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        error=InvalidResponse,
        status=None,
    ),
    "status below 100": Case(
        b"HTTP/1.1 099 Odd\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nab",
        error=InvalidResponse,
        status=None,
        direct_only=True,
    ),
    "another protocol": Case(b"SSH-2.0-OpenSSH_9.9\r\n\r\n", error=InvalidResponse, status=None),
    "TLS alert": Case(b"\x15\x03\x01\x00\x02\x02\x28", error=InvalidResponse, status=None),
}

LARGE_CASES: Final[dict[str, Case]] = {
    "over-long header": Case(
        OK + _headers([b"X-Long: " + b"x" * 200_000]), error=InvalidResponse, status=None
    ),
    "over-long head": Case(
        OK + _headers([b"X-Header-%d: %b" % (n, b"x" * 1000) for n in range(100)]) + b"\r\n",
        error=InvalidResponse,
        status=None,
    ),
    "many short headers": Case(
        OK + b"a:\r\n" * 5_000 + b"Content-Length: 0\r\n\r\n", error=InvalidResponse, status=None
    ),
    "flood of informational responses": Case(CONTINUE * 10_000, error=InvalidResponse, status=None),
    "flood of informational responses with headers": Case(
        (b"HTTP/1.1 103 Early Hints\r\nX-Filler: %b\r\n\r\n" % (b"x" * 1000)) * 100,
        error=InvalidResponse,
        status=None,
    ),
    "over-long trailers": Case(
        CHUNKED + chunked(b"ab") + b"0\r\n" + _headers([b"X-Long: " + b"x" * 200_000]),
        b"ab",
        InvalidResponse,
    ),
    "many trailers": Case(
        CHUNKED + chunked(b"ab") + b"0\r\n" + _headers([b"X: " + b"x" * 1000] * 100),
        b"ab",
        InvalidResponse,
    ),
    "many short trailers": Case(
        CHUNKED + chunked(b"ab") + b"0\r\n" + b"a:\r\n" * 5_000 + b"\r\n", b"ab", InvalidResponse
    ),
    "over-long chunk extension": Case(
        CHUNKED + chunked(b"ab") + b"2;" + b"x" * 200_000, b"ab", InvalidResponse
    ),
    "switching protocols": Case(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        error=InvalidResponse,
        status=None,
    ),
    "switching protocols without a name": Case(
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n", error=InvalidResponse, status=None
    ),
}
"""Responses that only the direct client refuses in this way."""
