"""One request and its response, while it runs on a connection."""

import asyncio
from typing import TYPE_CHECKING

from provider_agent.adapters.http.client import ResponseReceiver

if TYPE_CHECKING:
    from provider_agent.adapters.http.connection import HttpConnection


class Exchange:
    """One request and its response on a connection; the `ResponseSource` of its receiver.

    Args:
        receiver: receives the response.

    Attributes:
        connection: None before the start and after the end.
        has_response: whether a byte has arrived after the request was sent; set at the end, and
            meaningful if the connection was lost.
        ended: completed at the end, with an exception if the exchange failed.
    """

    __slots__ = ("connection", "ended", "has_response", "receiver")

    def __init__(self, receiver: ResponseReceiver) -> None:
        self.receiver = receiver
        self.connection: HttpConnection | None = None
        self.has_response = False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def pause_reading(self) -> None:
        """See `ResponseSource.pause_reading`."""
        if self.connection is not None:
            self.connection.pause_reading()

    def resume_reading(self) -> None:
        """See `ResponseSource.resume_reading`."""
        if self.connection is not None:
            self.connection.resume_reading()

    def stop(self) -> None:
        """See `ResponseSource.stop`."""
        if self.connection is not None:
            self.connection.end_exchange(None, reusable=False)

    def end(self, error: Exception | None) -> None:
        """Wake up the task that waits for the end, unless it was cancelled.

        Forgets the receiver.
        """
        self.connection = None
        # The receiver refers to its source, this exchange. Only the cyclic garbage collector would
        # free both, with everything that the job holds.
        del self.receiver
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error)
