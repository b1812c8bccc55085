"""Relays one response from a server to a sink, byte for byte.

It reads with aiohttp's public API, so its task wakes up once per read. A plain call passes the
bytes to the sink, and a full window stops the reading. A reader below the public API could replace
this one without changes elsewhere.
"""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Final

import aiohttp
from msgspec.structs import replace

from provider_agent.adapters.base import (
    BackendError,
    ErrorInStream,
    InvalidResponse,
    JobSink,
    ResponseOutcome,
    Usage,
)
from provider_agent.adapters.responses.events import ResponseFailure
from provider_agent.adapters.responses.gate import GateState, ResponseGate, gate_for
from provider_agent.adapters.responses.redaction import redact_bytes
from provider_agent.adapters.responses.status_codes import retry_advice, server_message
from provider_agent.adapters.responses.timeouts import JobTimeouts
from provider_agent.adapters.responses.validator import (
    ResponseValidator,
    ValidationResult,
    validator_for,
)
from provider_agent.protocol.errors import Fault, entry_for
from provider_agent.protocol.formats import Operation
from provider_agent.protocol.limits import MAX_ERROR_BODY_BYTES

_HELD_PIECE_BYTES: Final = 64 * 1024
"""How much of the held start of a response, which may have 2 MiB, is validated at once."""


class ReaderFlowControl:
    """`FlowControl` for a coroutine that checks before each read whether it may read."""

    def __init__(self) -> None:
        self._may_read = asyncio.Event()
        self._may_read.set()

    @property
    def is_paused(self) -> bool:
        """Whether the next read has to wait."""
        return not self._may_read.is_set()

    async def wait_until_resumed(self) -> None:
        """Return when the next read may happen; at once if reading is not paused."""
        await self._may_read.wait()

    def pause_reading(self) -> None:
        """Stop before the next read."""
        self._may_read.clear()

    def resume_reading(self) -> None:
        """Allow the next read."""
        self._may_read.set()


class Relay:
    """The relay of one response, from its headers to its end.

    Args:
        operation: the operation that the response belongs to.
        sink: receives the bytes, and at the end the outcome of the response.
        timeouts: the job's timeouts; notified of output and of each read.
        least_input_tokens: returns a lower bound of the tokens of the prompt; called once at most.
        estimated_start: see `validator_for`.
    """

    def __init__(
        self,
        operation: Operation,
        sink: JobSink,
        timeouts: JobTimeouts,
        *,
        least_input_tokens: Callable[[], int] = lambda: 0,
        estimated_start: bool = False,
    ) -> None:
        self._operation = operation
        self._least_input_tokens = least_input_tokens
        self._estimated_start = estimated_start
        self._sink = sink
        self._timeouts = timeouts

    async def run(self, response: aiohttp.ClientResponse, secrets: Collection[str]) -> None:
        """Relay and validate the whole response; return at the end of a successful response.

        Args:
            response: a response with a success status.
            secrets: values to remove from an error that the server reports.

        Raises:
            ErrorInStream: the response contains an error.
            InvalidResponse: the response ended early, is compressed, or has the wrong shape.
            aiohttp.ClientError: the connection failed.
        """
        encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("identity", ""):
            # The request asked for `identity`: the client may not be able to decode anything else.
            raise InvalidResponse("the server compressed its response, although asked not to")
        content_type = response.headers.get("Content-Type", "application/octet-stream")
        validator = validator_for(
            self._operation, content_type, estimated_start=self._estimated_start
        )
        gate = gate_for(self._operation, content_type)
        state = await _read_start(response, gate, validator)
        result: ValidationResult | None = None
        if state is not GateState.OUTPUT:  # the response is complete, or begins with an error
            result = validator.result()
            failure = gate.failure or result.failure
            if failure is not None:
                if result.usage != Usage():
                    self._sink.response_ended(ResponseOutcome(result.usage))
                raise _error_from(failure, secrets)
        flow = ReaderFlowControl()
        self._timeouts.output_started()
        self._sink.started(response.status, content_type, flow, response.headers)
        try:
            self._sink.send_chunk(gate.held)
            if state is GateState.OUTPUT:
                await self._relay_rest(response, flow, validator)
        finally:
            result = result or validator.result()
            outcome = self._outcome(result)
            if flow.is_paused and (unread := _take_unread(response)):
                # The job was cancelled or failed while a full window paused reading. What the
                # server has sent since the pause may report the usage, but is not relayed.
                validator.receive_data(unread)
                outcome = replace(outcome, usage=validator.result().usage)
            self._sink.response_ended(outcome)
        if result.failure is not None:
            raise _error_from(result.failure, secrets)

    def _outcome(self, result: ValidationResult) -> ResponseOutcome:
        outcome = result.outcome
        if outcome.usage.input_tokens is not None or self._operation is Operation.COUNT_TOKENS:
            return outcome
        return replace(outcome, least_input_tokens=self._least_input_tokens())

    async def _relay_rest(
        self,
        response: aiohttp.ClientResponse,
        flow: ReaderFlowControl,
        validator: ResponseValidator,
    ) -> None:
        """Pass each read to the sink at once (the hot path)."""
        send_chunk, validate = self._sink.send_chunk, validator.receive_data
        read, data_received = response.content.readany, self._timeouts.data_received
        while True:
            if flow.is_paused:
                self._timeouts.pause()
                await flow.wait_until_resumed()
                self._timeouts.resume()
            data = await read()
            if not data:
                return
            data_received()
            send_chunk(data)
            validate(data)
            data = b""  # releases the chunk while reading is paused


async def _read_start(
    response: aiohttp.ClientResponse, gate: ResponseGate, validator: ResponseValidator
) -> GateState:
    """Read until the gate has decided, or to the end, and validate what the gate holds."""
    state = GateState.UNDECIDED
    while state is GateState.UNDECIDED and (data := await response.content.readany()):
        state = gate.receive_data(data)
    held = gate.held
    for at in range(0, len(held), _HELD_PIECE_BYTES):
        if at:
            await asyncio.sleep(0)  # other jobs run between the pieces
        validator.receive_data(held[at : at + _HELD_PIECE_BYTES])
    return state


def _take_unread(response: aiohttp.ClientResponse) -> bytes:
    """Return the bytes that aiohttp has received and the relay has not read."""
    with suppress(aiohttp.ClientError, RuntimeError, OSError):
        return response.content.read_nowait()
    return b""


def _error_from(failure: ResponseFailure, secrets: Collection[str]) -> BackendError:
    if not failure.body:
        return InvalidResponse(failure.message)
    body = redact_bytes(failure.body, MAX_ERROR_BODY_BYTES, secrets)
    message = server_message(body) if entry_for(failure.code).fault is Fault.CLIENT else ""
    error = ErrorInStream(body, failure.code, message)
    error.retryable, error.retry_after_s = retry_advice(body)
    return error
