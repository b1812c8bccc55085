"""A sink that keeps what it gets, and pauses its source on demand."""

import asyncio

from provider_agent.adapters.base import FlowControl


class CollectingSink:
    """A `JobSink` for tests.

    Attributes:
        status: of the response; None until it started.
        content_type: of the response.
        data: every byte so far.
        chunks: how the bytes arrived.
        first_chunk: set with the first bytes.
        pause_at: pauses the source once so many bytes are there; None: never.
        paused: set when it has done so.
    """

    def __init__(self, *, pause_at: int | None = None) -> None:
        self.status: int | None = None
        self.content_type = ""
        self.data = bytearray()
        self.chunks: list[bytes] = []
        self.first_chunk = asyncio.Event()
        self.pause_at = pause_at
        self.paused = asyncio.Event()
        self._source: FlowControl | None = None

    def started(self, status: int, content_type: str, source: FlowControl) -> None:
        assert self._source is None, "started twice"
        self.status, self.content_type, self._source = status, content_type, source

    def send_chunk(self, data: bytes) -> None:
        assert self._source is not None, "bytes before the start"
        assert data, "an empty chunk"
        self.data += data
        self.chunks.append(data)
        self.first_chunk.set()
        if self.pause_at is not None and len(self.data) >= self.pause_at:
            self._source.pause_reading()
            self.paused.set()

    def resume(self) -> None:
        """Take everything from now on."""
        assert self._source is not None
        self.pause_at = None
        self._source.resume_reading()
