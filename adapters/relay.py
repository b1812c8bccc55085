"""One response on its way from a server to a sink, byte for byte.

Reads with aiohttp's public API: one task wakes up per read. Bytes go to the sink by a plain call,
and a full window stops the reading, so that a reader below the public API can take this one's place
without touching anything else.
"""

import asyncio
from collections.abc import Callable

import aiohttp

from adapters.base import ErrorInStream, InvalidResponse, Job, JobResult, JobSink
from adapters.inspector import inspector_for
from adapters.redaction import redact_bytes
from protocol.formats import Operation
from protocol.limits import MAX_ERROR_BODY_BYTES, MAX_NAME_CHARS


class ReadGate:
    """`FlowControl` for a reader that asks before each read."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    @property
    def is_open(self) -> bool:
        """Whether the next read may happen now."""
        return self._open.is_set()

    async def wait(self) -> None:
        """Return when the next read may happen."""
        await self._open.wait()

    def pause_reading(self) -> None:
        """Stop before the next read."""
        self._open.clear()

    def resume_reading(self) -> None:
        """Let the next read happen."""
        self._open.set()


class Relay:
    """One response on its way from a server to a sink."""

    def __init__(self, operation: Operation, sink: JobSink, clock: Callable[[], float]) -> None:
        self._sink = sink
        self._clock = clock
        self._inspector = inspector_for(operation.wire_format, "")
        self._format = operation.wire_format
        self._total = 0
        self._first_byte_at: float | None = None

    async def run(self, response: aiohttp.ClientResponse) -> None:
        """Move every byte; returns at the end of the response."""
        content_type = response.headers.get("Content-Type", "application/octet-stream")
        gate = ReadGate()
        self._inspector = inspector = inspector_for(self._format, content_type)
        send_chunk, feed, read = self._sink.send_chunk, inspector.feed, response.content.readany
        self._sink.started(response.status, content_type[:MAX_NAME_CHARS], gate)
        while data := await read():
            if self._first_byte_at is None:
                self._first_byte_at = self._clock()
            self._total += len(data)
            send_chunk(data)
            feed(data)
            if not gate.is_open:
                await gate.wait()

    def result(self, job: Job, began: float, secrets: frozenset[str]) -> JobResult:
        """How a complete response went.

        Raises:
            ErrorInStream: it holds an error.
            InvalidResponse: it ended early.
        """
        verdict = self._inspector.verdict()
        failure = verdict.failure
        if failure is not None and failure.body:
            body = redact_bytes(failure.body, MAX_ERROR_BODY_BYTES, secrets)
            raise ErrorInStream(body, failure.code)
        if failure is not None:
            raise InvalidResponse(failure.message)
        first = self._first_byte_at
        return JobResult(
            job_id=job.job_id,
            total_bytes=self._total,
            input_tokens=verdict.usage.input_tokens,
            output_tokens=verdict.usage.output_tokens,
            duration_ms=round((self._clock() - began) * 1000),
            first_byte_ms=None if first is None else round((first - began) * 1000),
        )
