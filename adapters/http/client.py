"""The interface of both HTTP clients: one request, and a receiver of its response.

A client passes each piece of a response to the receiver with a plain call, without waking a task.
"""

from collections.abc import Iterator, Mapping
from typing import Protocol

from msgspec import Struct


class HttpRequest(Struct, frozen=True):
    """A request.

    Attributes:
        path: the path below the URL of the client, beginning with a slash; with the query, if any.
        headers: the headers of this request, in addition to those of every request of the client.
        body: the whole body; None: the request has none.
        method: the HTTP method. Not `HEAD`, whose response has no body.
    """

    path: str
    headers: Mapping[str, str]
    body: bytes | None
    method: str = "POST"


class ResponseHeaders(Mapping[str, str]):
    """The headers of a response, with case-insensitive names.

    `items` has every header in the order of the response; a lookup returns the first of its name.
    """

    __slots__ = ("_first", "_pairs")

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs
        self._first = {name.lower(): value for name, value in reversed(pairs)}

    def __getitem__(self, name: str) -> str:
        return self._first[name.lower()]

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        """Return a header, or `default`. The inherited method is slow for an absent one."""
        return self._first.get(name.lower(), default)

    def __iter__(self) -> Iterator[str]:
        return iter([name for name, _ in self._pairs])

    def __len__(self) -> int:
        return len(self._pairs)

    def items(self) -> list[tuple[str, str]]:  # type: ignore[override]
        """Return name and value of every header, also of repeated ones."""
        return self._pairs


class ResponseHead(Struct, frozen=True):
    """The status and the headers of a response; never those of an informational one (1xx)."""

    status: int
    headers: Mapping[str, str]


class ResponseSource(Protocol):
    """Controls a response. After its end the methods have no effect."""

    def pause_reading(self) -> None:
        """Stop reading until `resume_reading`; what was read already may still be delivered."""
        ...

    def resume_reading(self) -> None:
        """Continue reading."""
        ...

    def stop(self) -> None:
        """End the exchange as if the response ended here, and close its connection."""
        ...


class ResponseReceiver(Protocol):
    """Receives one response. What a method raises ends the exchange and closes the connection."""

    def response_started(self, head: ResponseHead, source: ResponseSource) -> None:
        """Receive the head. Called once, before any data."""
        ...

    def data_received(self, data: bytes) -> None:
        """Receive the next bytes of the body, never empty."""
        ...

    def unread_received(self, data: bytes) -> None:
        """Receive bytes that arrived while reading was paused, and that nobody waits for any more.

        Called once at most, when the exchange is cancelled during a pause, after all
        `data_received`. The bytes may not be all that the server has sent.
        """
        ...


class HttpClient(Protocol):
    """Sends requests to one server. Redirects are not followed, and cookies are not stored."""

    async def exchange(
        self, request: HttpRequest, receiver: ResponseReceiver, *, new_connection: bool = False
    ) -> None:
        """Send a request, pass its response to `receiver`, and return at the end of the response.

        The server executes a `POST` at most once. Cancellation closes the connection before
        `CancelledError` propagates.

        Args:
            request: the request.
            receiver: receives the response.
            new_connection: whether to open a connection, even if another one is idle.

        Raises:
            Unreachable: the connection could not be opened.
            BackendTimeout: the connection did not open in time.
            Transport: the connection was lost before the end of the response.
            InvalidResponse: the response violates HTTP.
        """
        ...

    async def close(self) -> None:
        """Close all connections; a later exchange opens new ones.

        Exchanges that run have to be cancelled by their callers.
        """
        ...
