"""Records requests before they are sent, so that the death of a server names its request."""

from pathlib import Path
from typing import Final

from tests.kit.hostile_requests import HostileRequest

KEPT: Final = 16
"""The number of requests whose files are kept: a server may die some requests later."""

SHOWN_BYTES: Final = 2000
"""How much of the last request is part of the description."""


class RequestLog:
    """Files with the last `KEPT` requests.

    Args:
        folder: receives the files; created if it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._number = 0
        self._last: HostileRequest | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, request: HostileRequest) -> None:
        """Write a request to its file; call it before the request is sent."""
        self._number += 1
        self._last = request
        self._file(self._number, request).write_bytes(request.body)
        for old in self.folder.glob(f"{self._number - KEPT:06}-*"):
            old.unlink()

    def describe(self) -> str:
        """Return the last request, and where it and those before it are."""
        if self._last is None:
            return "no request was sent"
        operation, body = self._last
        text = body[:SHOWN_BYTES].decode(errors="backslashreplace")
        cut = f" … ({len(body)} bytes)" if len(body) > SHOWN_BYTES else ""
        file = self._file(self._number, self._last)
        return (
            f"the last request ({operation}) is {file}, and those before are beside it: {text}{cut}"
        )

    def _file(self, number: int, request: HostileRequest) -> Path:
        return self.folder / f"{number:06}-{request.operation}.json"
