"""A receiver that records a response, and can pause its source."""

import asyncio

from provider_agent.adapters.http.client import ResponseHead, ResponseSource


class RecordingReceiver:
    """A `ResponseReceiver` for tests.

    Attributes:
        head: the head; None before it arrives.
        data: the data so far.
        reads: the number of calls of `data_received`.
        unread: the bytes of `unread_received`.
        started: set with the head.
        pause_at: number of bytes at which the source is paused; None: never.
        paused: set when the source was paused.
    """

    def __init__(self, *, pause_at: int | None = None) -> None:
        self.head: ResponseHead | None = None
        self.data = b""
        self.reads = 0
        self.unread = b""
        self.started = asyncio.Event()
        self.pause_at = pause_at
        self.paused = asyncio.Event()
        self._source: ResponseSource | None = None

    def response_started(self, head: ResponseHead, source: ResponseSource) -> None:
        assert self.head is None, "started twice"
        self.head = head
        self._source = source
        self.started.set()

    def data_received(self, data: bytes) -> None:
        assert self.head is not None, "data before the head"
        assert data, "an empty read"
        self.data += data
        self.reads += 1
        if self.pause_at is not None and len(self.data) >= self.pause_at:
            self.source.pause_reading()
            self.paused.set()

    def unread_received(self, data: bytes) -> None:
        assert not self.unread, "called twice"
        self.unread = data

    @property
    def source(self) -> ResponseSource:
        assert self._source is not None
        return self._source

    @property
    def status(self) -> int | None:
        return None if self.head is None else self.head.status
