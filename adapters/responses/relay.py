"""Relays one response from a server to a sink, byte for byte.

The HTTP client passes each read to the relay with a plain call, and the relay passes it on with
another one: no task wakes up. A full window pauses the reading.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Final

from msgspec.structs import replace

from provider_agent.adapters.base import (
    BackendError,
    InvalidResponse,
    JobSink,
    ResponseOutcome,
    Transport,
    Usage,
)
from provider_agent.adapters.http.client import (
    HttpClient,
    HttpRequest,
    ResponseHead,
    ResponseSource,
)
from provider_agent.adapters.responses.error_body import ErrorBody, ErrorResponse
from provider_agent.adapters.responses.gate import GateState, ResponseGate, gate_for
from provider_agent.adapters.responses.reported_errors import response_error
from provider_agent.adapters.responses.timeouts import JobTimeouts
from provider_agent.adapters.responses.validation_result import ValidationResult
from provider_agent.adapters.responses.validator import ResponseValidator, validator_for
from provider_agent.protocol.formats import Operation

_DEFAULT_TYPE: Final = "application/octet-stream"


class Relay:
    """The relay of one response, from its head to its end.

    It is the `ResponseReceiver` of the HTTP client, and the `FlowControl` of the sink.

    Args:
        operation: the operation that the response belongs to.
        sink: receives the bytes, and at the end the outcome of the response.
        timeouts: the job's timeouts; notified of output, pauses and each read.
        least_input_tokens: returns a lower bound of the tokens of the prompt; called once at most.
        estimated_start: see `validator_for`.
    """

    __slots__ = (
        "_checked_at",
        "_error_body",
        "_estimated_start",
        "_gate",
        "_head",
        "_least_input_tokens",
        "_now",
        "_operation",
        "_paused",
        "_send_chunk",
        "_sink",
        "_source",
        "_timeouts",
        "_unread",
        "_validate",
        "_validator",
    )

    _head: ResponseHead
    _source: ResponseSource
    # Set if the response has a success status:
    _validator: ResponseValidator
    _validate: Callable[[bytes], None]
    """`receive_data` of the validator."""

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
        self._now = asyncio.get_running_loop().time
        self._error_body: ErrorBody | None = None
        self._gate: ResponseGate | None = None
        """Holds the start of a response until it shows output or an error."""
        self._send_chunk: Callable[[bytes], None] | None = None
        """None before the sink is started."""
        self._paused = False
        self._unread = b""
        self._checked_at: float | None = None
        """The time of the last read that `end_if_terminated` has considered."""

    async def run(
        self, client: HttpClient, request: HttpRequest, secrets: Collection[str]
    ) -> ErrorResponse | None:
        """Send the request, and relay and validate the whole response.

        Args:
            client: sends the request.
            request: the request.
            secrets: values to remove from an error that the server reports in its response.

        Returns:
            A response without success status, which is not relayed; None after a success.

        Raises:
            ErrorInStream: the response contains an error.
            InvalidResponse: the response ended early, is compressed, or has the wrong shape.
            BackendError: the connection failed.
        """
        try:
            await client.exchange(request, self)
        except BackendError as error:
            if self._error_body is None and not (isinstance(error, Transport) and self._terminated):
                self._end_response()
                raise
        except BaseException:
            self._end_response()
            raise
        finally:
            error_response = self._error_body.finish() if self._error_body is not None else None
        if error_response is None:
            self._complete(secrets)
        return error_response

    def end_if_terminated(self, quiet_since: float) -> None:
        """End the response if its last event was the final one, but its connection stays open.

        Args:
            quiet_since: the loop time since when nothing may have arrived.
        """
        read_at = self._timeouts.last_output_at
        if read_at is None or read_at > quiet_since or read_at == self._checked_at or self._paused:
            return
        self._checked_at = read_at
        if self._terminated:
            self._source.stop()

    # --- ResponseReceiver ------------------------------------------------------------------------

    def response_started(self, head: ResponseHead, source: ResponseSource) -> None:
        """Prepare the gate and the validator, or collect the body of an error."""
        self._head, self._source = head, source
        if not 200 <= head.status < 300:
            self._error_body = ErrorBody(head, source)
            return
        encoding = head.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("identity", ""):
            # The request asked for `identity`: the client may not be able to decode anything else.
            raise InvalidResponse("the server compressed its response, although asked not to")
        content_type = head.headers.get("Content-Type", _DEFAULT_TYPE)
        self._gate = gate_for(self._operation, content_type)
        self._validator = validator_for(
            self._operation, content_type, estimated_start=self._estimated_start
        )
        self._validate = self._validator.receive_data

    def data_received(self, data: bytes) -> None:
        """Pass one read to the sink at once (the hot path)."""
        send_chunk = self._send_chunk
        if send_chunk is None:
            self._hold(data)
            return
        self._timeouts.last_read_at = self._now()
        send_chunk(data)
        self._validate(data)

    def unread_received(self, data: bytes) -> None:
        """Keep what arrived during a pause: it is not relayed, but may report the usage."""
        self._unread = data

    # --- FlowControl -----------------------------------------------------------------------------

    def pause_reading(self) -> None:
        """Pause the source, and the silence timeout."""
        if not self._paused:
            self._paused = True
            self._timeouts.pause()
            self._source.pause_reading()

    def resume_reading(self) -> None:
        """Resume the source, and the silence timeout."""
        if self._paused:
            self._paused = False
            self._timeouts.resume()
            self._source.resume_reading()

    # --- start and end ---------------------------------------------------------------------------

    def _hold(self, data: bytes) -> None:
        """Add data to the gate, until it shows output or an error."""
        if self._error_body is not None:
            self._error_body.receive_data(data)
        elif self._gate is not None:
            # Each read is validated now: all at once, a start of 2 MiB would block the event loop.
            self._validator.receive_data(data)
            state = self._gate.receive_data(data)
            if state is GateState.OUTPUT:
                self._start(self._gate)
            elif state is GateState.ERROR:
                self._source.stop()

    def _start(self, gate: ResponseGate) -> None:
        """Start the sink, and pass on what the gate holds."""
        self._gate = None
        self._timeouts.output_started()
        content_type = self._head.headers.get("Content-Type", _DEFAULT_TYPE)
        self._sink.started(self._head.status, content_type, self, self._head.headers)
        self._send_chunk = self._sink.send_chunk
        self._send_chunk(gate.held)

    def _complete(self, secrets: Collection[str]) -> None:
        """End a response whose exchange has succeeded.

        Raises:
            ErrorInStream: the response contains an error.
            InvalidResponse: it ended early, or has the wrong shape.
        """
        result = self._validator.result()
        gate, failure = self._gate, result.failure
        if gate is not None:  # the response is complete without output, or begins with an error
            failure = gate.failure or failure
            if failure is None:
                self._start(gate)
            elif result.usage != Usage():
                self._sink.response_ended(ResponseOutcome(result.usage))
        self._end_response(result)
        if failure is not None:
            raise response_error(failure, secrets)

    def _end_response(self, result: ValidationResult | None = None) -> None:
        """Tell the sink the outcome, if it was started.

        Args:
            result: the validator's result, if it is known already.
        """
        if self._send_chunk is None:
            return
        outcome = self._outcome(result or self._validator.result())
        if self._unread:
            self._validator.receive_data(self._unread)
            outcome = replace(outcome, usage=self._validator.result().usage)
        self._sink.response_ended(outcome)

    def _outcome(self, result: ValidationResult) -> ResponseOutcome:
        outcome = result.outcome
        if outcome.usage.input_tokens is not None or self._operation is Operation.COUNT_TOKENS:
            return outcome
        return replace(outcome, least_input_tokens=self._least_input_tokens())

    @property
    def _terminated(self) -> bool:
        """Whether the relayed bytes end with the final event of a successful response."""
        return self._send_chunk is not None and self._validator.is_terminated()
