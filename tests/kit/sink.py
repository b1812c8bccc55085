"""A sink that collects a response, and can pause its source."""

import asyncio
from collections.abc import Mapping

from provider_agent.adapters.base import FlowControl, ResponseOutcome, Usage


class CollectingSink:
    """A `JobSink` for tests.

    Attributes:
        status: the response's status; None before it starts.
        content_type: the response's content type.
        headers: the response's headers.
        outcome: the response's outcome; None before it ends.
        data: all bytes so far.
        chunks: the chunks so far.
        first_chunk: set with the first chunk.
        pause_at: number of bytes at which the sink pauses its source; None: never.
        paused: set when the sink has paused its source.
    """

    def __init__(self, *, pause_at: int | None = None) -> None:
        self.status: int | None = None
        self.content_type = ""
        self.headers: Mapping[str, str] = {}
        self.outcome: ResponseOutcome | None = None
        self.data = bytearray()
        self.chunks: list[bytes] = []
        self.first_chunk = asyncio.Event()
        self.pause_at = pause_at
        self.paused = asyncio.Event()
        self._source: FlowControl | None = None

    def started(
        self, status: int, content_type: str, source: FlowControl, headers: Mapping[str, str]
    ) -> None:
        assert self._source is None, "started twice"
        self.headers = headers
        self.status, self.content_type, self._source = status, content_type, source

    def send_chunk(self, data: bytes) -> None:
        assert self._source is not None, "bytes before the start"
        assert data, "an empty chunk"
        assert self.outcome is None, "bytes after the end"
        self.data += data
        self.chunks.append(data)
        self.first_chunk.set()
        if self.pause_at is not None and len(self.data) >= self.pause_at:
            self._source.pause_reading()
            self.paused.set()

    def response_ended(self, outcome: ResponseOutcome) -> None:
        assert self._source is not None or outcome != ResponseOutcome(), "an end before the start"
        assert self.outcome is None, "ended twice"
        self.outcome = outcome

    @property
    def usage(self) -> Usage:
        """The usage of the ended response."""
        assert self.outcome is not None, "the response has not ended"
        return self.outcome.usage

    def resume(self) -> None:
        """Resume the source and accept all further bytes."""
        assert self._source is not None
        self.pause_at = None
        self._source.resume_reading()
