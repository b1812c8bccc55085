"""Collects a whole response in memory."""

from provider_agent.adapters.http.client import ResponseHead, ResponseSource


class BodyCollector:
    """A `ResponseReceiver` that keeps the head and the body, and stops a body that is too long.

    Args:
        limit: the most bytes that a body may have.

    Attributes:
        head: the head, once it has arrived.
        body: the body so far, up to `limit`.
        is_cut: whether the body was longer than `limit`.
    """

    head: ResponseHead
    _source: ResponseSource

    def __init__(self, limit: int) -> None:
        self.body = bytearray()
        self.is_cut = False
        self._limit = limit

    def response_started(self, head: ResponseHead, source: ResponseSource) -> None:
        """Store the head."""
        self.head = head
        self._source = source

    def data_received(self, data: bytes) -> None:
        """Add the next bytes of the body."""
        left = self._limit - len(self.body)
        self.body += data[:left]
        if len(data) > left:
            self.is_cut = True
            self._source.stop()

    def unread_received(self, data: bytes) -> None:
        """Ignore the bytes of a cancelled response."""
