"""One response on its way from a server to a sink, byte for byte.

Reads with aiohttp's public API: one task wakes up per read. Bytes go to the sink by a plain call,
and a full window stops the reading, so that a reader below the public API can take this one's place
without touching anything else.
"""

import asyncio
from collections.abc import Collection

import aiohttp

from provider_agent.adapters.base import BackendError, ErrorInStream, InvalidResponse, JobSink
from provider_agent.adapters.responses.events import Failure, Usage
from provider_agent.adapters.responses.gate import BodyGate, GateState, ResponseGate, StreamGate
from provider_agent.adapters.responses.redaction import redact_bytes
from provider_agent.adapters.responses.status_codes import server_advice, server_message
from provider_agent.adapters.responses.timeouts import JobTimeouts
from provider_agent.adapters.responses.validator import (
    BodyValidator,
    ResponseValidator,
    is_event_stream,
    validator_for,
)
from provider_agent.protocol.errors import Fault, entry_for
from provider_agent.protocol.formats import Operation
from provider_agent.protocol.limits import MAX_ERROR_BODY_BYTES, MAX_NAME_CHARS


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
    """One response on its way from a server to a sink.

    Args:
        operation: which operation it answers.
        sink: where it goes.
        clocks: of the job.
    """

    def __init__(self, operation: Operation, sink: JobSink, clocks: JobTimeouts) -> None:
        self._operation = operation
        self._sink = sink
        self._clocks = clocks
        self._inspector: ResponseValidator = BodyValidator()
        self.total_bytes = 0
        """Bytes that reached the sink."""
        self.usage = Usage()
        """What the response reports, once it is complete."""
        self.first_byte_at: float | None = None
        """When the first byte of output came, by the loop's clock."""

    async def run(self, response: aiohttp.ClientResponse, secrets: Collection[str]) -> None:
        """Move every byte and judge the whole; returns at the end of a success.

        Args:
            response: with a success status.
            secrets: what an error of the server must not repeat.

        Raises:
            ErrorInStream: it holds an error.
            InvalidResponse: it ended early, is compressed, or is not what it should be.
        """
        packed = response.headers.get("Content-Encoding", "identity").strip().lower()
        if packed not in ("identity", ""):
            # Nobody asked for it: the client could not read it, and nobody could judge it.
            raise InvalidResponse("the server compressed its answer, although asked not to")
        content_type = response.headers.get("Content-Type", "application/octet-stream")
        self._inspector = validator_for(self._operation, content_type)
        opening: ResponseGate = StreamGate() if is_event_stream(content_type) else BodyGate()
        state = GateState.UNDECIDED
        while state is GateState.UNDECIDED and (data := await response.content.readany()):
            state = opening.feed(data)
        if opening.failure is not None:
            raise _failed(opening.failure, secrets)
        self._inspector.feed(opening.held)
        if state is GateState.UNDECIDED:
            # It is complete already, and nobody has seen a byte of it: judge first.
            self._judge(secrets)
            self._begin(response.status, content_type, opening.held)
            return
        gate = self._begin(response.status, content_type, opening.held)
        await self._flow(response, gate)
        self._judge(secrets)

    def _begin(self, status: int, content_type: str, held: bytes) -> ReadGate:
        gate = ReadGate()
        self.first_byte_at = asyncio.get_running_loop().time()
        self._clocks.output_began()
        self._sink.started(status, content_type[:MAX_NAME_CHARS], gate)
        self._sink.send_chunk(held)
        self.total_bytes = len(held)
        return gate

    async def _flow(self, response: aiohttp.ClientResponse, gate: ReadGate) -> None:
        """The hot path: whatever is read goes on at once."""
        send_chunk, feed = self._sink.send_chunk, self._inspector.feed
        read, seen = response.content.readany, self._clocks.read
        while True:
            if not gate.is_open:
                self._clocks.pause()
                await gate.wait()
                self._clocks.resume()
            data = await read()
            if not data:
                return
            seen()
            self.total_bytes += len(data)
            send_chunk(data)
            feed(data)
            data = b""  # or it would be kept a second time for as long as the gate is closed

    def _judge(self, secrets: Collection[str]) -> None:
        verdict = self._inspector.verdict()
        self.usage = verdict.usage
        if verdict.failure is not None:
            raise _failed(verdict.failure, secrets)


def _failed(failure: Failure, secrets: Collection[str]) -> BackendError:
    if not failure.body:
        return InvalidResponse(failure.message)
    body = redact_bytes(failure.body, MAX_ERROR_BODY_BYTES, secrets)
    said = server_message(body) if entry_for(failure.code).fault is Fault.CLIENT else ""
    error = ErrorInStream(body, failure.code, said)
    error.retryable, error.retry_after_s = server_advice(body)
    return error
