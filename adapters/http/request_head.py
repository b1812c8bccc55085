"""Encodes the heads of requests. What all requests to one path have in common is encoded once."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from provider_agent.adapters.http.client import HttpRequest
from provider_agent.adapters.http.server_address import ServerAddress

MAX_PREFIXES: Final = 64
"""How many beginnings of heads are kept: jobs use few paths, but a query may name any model."""


class RequestHeads:
    """The heads of requests to one server.

    Args:
        address: the server.
        headers: the headers of every request.

    Raises:
        ValueError: a header contains a line break, which could start another header, or NUL.
    """

    def __init__(self, address: ServerAddress, headers: Mapping[str, str]) -> None:
        common = encode_headers({"Host": address.authority, **headers})

        def prefix(method: str, path: str) -> bytes:
            return f"{method} {address.path}{path} HTTP/1.1\r\n".encode() + common

        self._prefix = lru_cache(MAX_PREFIXES)(prefix)

    def encode(self, request: HttpRequest, *, keep_alive: bool) -> bytes:
        """Return the request line and all headers, with the empty line at their end.

        Args:
            request: the request; its path is below that of the server.
            keep_alive: whether the server may keep the connection open after its response.

        Raises:
            ValueError: a header contains a line break or NUL.
        """
        close = b"" if keep_alive else b"Connection: close\r\n"
        body = request.body
        length = b"" if body is None else b"Content-Length: %d\r\n" % len(body)
        return b"%b%b%b%b\r\n" % (
            self._prefix(request.method, request.path),
            encode_headers(request.headers),
            close,
            length,
        )


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Encode headers, each with its line end.

    Raises:
        ValueError: a header contains a line break or NUL.
    """
    text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    lines = len(headers)
    if text.count("\r") != lines or text.count("\n") != lines or "\0" in text:
        raise ValueError("a header contains a line break or NUL")
    return text.encode()
