"""Encodes the heads of requests. What all requests to one path have in common is encoded once."""

import re
from collections.abc import Mapping
from typing import Final

from provider_agent.adapters.http.server_address import ServerAddress

_FORBIDDEN: Final = re.compile(r"[\r\n\0]")


class RequestHeads:
    """The heads of `POST` requests to one server.

    Args:
        address: the server.
        headers: the headers of every request.

    Raises:
        ValueError: a header contains a line break, which could start another header, or NUL.
    """

    def __init__(self, address: ServerAddress, headers: Mapping[str, str]) -> None:
        self._address = address
        self._common = encode_headers({"Host": address.authority, **headers})
        self._prefixes: dict[str, bytes] = {}

    def encode(
        self, path: str, headers: Mapping[str, str], body_bytes: int, *, keep_alive: bool
    ) -> bytes:
        """Return the request line and all headers, with the empty line at their end.

        Args:
            path: the path of the request, below that of the server.
            headers: the headers of this request only.
            body_bytes: the size of the body.
            keep_alive: whether the server may keep the connection open after its response.

        Raises:
            ValueError: a header contains a line break or NUL.
        """
        prefix = self._prefixes.get(path)
        if prefix is None:
            line = f"POST {self._address.path}{path} HTTP/1.1\r\n".encode()
            prefix = self._prefixes[path] = line + self._common
        close = b"" if keep_alive else b"Connection: close\r\n"
        return b"%b%b%bContent-Length: %d\r\n\r\n" % (
            prefix,
            encode_headers(headers),
            close,
            body_bytes,
        )


def encode_headers(headers: Mapping[str, str]) -> bytes:
    """Encode headers, each with its line end.

    Raises:
        ValueError: a header contains a line break or NUL.
    """
    lines = [f"{name}: {value}" for name, value in headers.items()]
    if any(map(_FORBIDDEN.search, lines)):
        raise ValueError("a header contains a line break or NUL")
    return "".join([f"{line}\r\n" for line in lines]).encode()
