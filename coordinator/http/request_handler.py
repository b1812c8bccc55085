"""Handles one client request: the jobs that it causes, and its response.

Nothing is sent to the client before the first byte or the end of a job, so that until then another
agent can be tried. After that the response is what the agent sends, byte for byte.

A client must not mistake a part of a response for the whole. An interrupted event stream ends with
one error event: the server's own if it was relayed, else the coordinator's if the last event is
complete. In every other case the connection is aborted.
"""

import asyncio
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from aiohttp import web
from msgspec import Struct

from provider_agent.coordinator.agents.connected_agent import ConnectedAgent
from provider_agent.coordinator.agents.fleet import Fleet
from provider_agent.coordinator.http.client_errors import (
    ClientError,
    error_of_code,
    error_of_job,
    is_retryable,
    render_body,
    render_event,
)
from provider_agent.coordinator.http.client_request import ClientRequest
from provider_agent.coordinator.http.client_stream import PIECE_BYTES, ClientStream, abort
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.coordinator.settings import CoordinatorSettings, ReceiptMode
from provider_agent.event_log import EventLogger
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.event_stream import ends_between_events
from provider_agent.protocol.formats import WireFormat
from provider_agent.protocol.frames import JobEnd, JobError, JobStarted
from provider_agent.protocol.job import Job
from provider_agent.protocol.response_headers import client_headers, valid_content_type

log = EventLogger(__name__)

ERROR_EVENT_TIMEOUT_S: Final = 5.0
"""Seconds that a client may take to read the error event of an interrupted stream."""

_TAIL_BYTES: Final = 4  # the longest terminator of an event: CR LF CR LF

_BODILESS: Final = frozenset(
    {HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED}
)


class Counters(Struct):
    """Counts requests by outcome.

    Attributes:
        requests: requests with a valid body.
        completed: responses that were sent completely.
        failed: responses that were an error, or were interrupted.
        disconnected: requests whose client disconnected, or did not read its response.
        retried: additional jobs that were sent to another agent after a retryable error.
    """

    requests: int = 0
    completed: int = 0
    failed: int = 0
    disconnected: int = 0
    retried: int = 0


class RequestHandler:
    """Handles one request.

    Args:
        request: the HTTP request.
        client_request: the validated content of the request.
        fleet: chooses the agents.
        settings: limits and timeouts.
        counters: counts the outcome of the request.
        clock: monotonic, in seconds.
        random_bytes: generates job ids.
    """

    def __init__(
        self,
        request: web.Request,
        client_request: ClientRequest,
        *,
        fleet: Fleet,
        settings: CoordinatorSettings,
        counters: Counters,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._request = request
        self._client_request = client_request
        self._fleet = fleet
        self._settings = settings
        self._counters = counters
        self._clock = clock
        self._random_bytes = random_bytes
        self._ends_at = clock() + settings.deadline_s
        self._job_id = self._new_job_id()
        self._response: web.StreamResponse | None = None
        self._tail = b""
        self._job_error: JobError | None = None

    def __repr__(self) -> str:
        request = self._client_request
        return f"<RequestHandler {self._job_id.hex()} {request.operation} {request.model_id!r}>"

    async def run(self) -> web.StreamResponse:
        """Send the response.

        aiohttp cancels this method when the client disconnects, which cancels the job at once.
        """
        self._counters.requests += 1
        timeout_s = self._settings.deadline_s + self._settings.deadline_grace_s
        try:
            async with asyncio.timeout(timeout_s):
                error = await self._respond()
        except TimeoutError:
            error = error_of_code(ErrorCode.DEADLINE_EXCEEDED)
        except asyncio.CancelledError:
            self._counters.disconnected += 1
            raise
        except ConnectionError:
            self._counters.disconnected += 1
            return self._response or web.Response()
        if self._response is not None and error is None:
            self._counters.completed += 1
            return self._response
        self._counters.failed += 1
        error = error or error_of_code(ErrorCode.INTERNAL)
        if self._response is None:
            return error_response(
                self._client_request.operation.wire_format, error, self._job_id.hex()
            )
        await self._abort_response(self._response, error)
        return self._response

    async def _respond(self) -> ClientError | None:
        """Try agents in turn; returns None when the complete response was sent."""
        error: ClientError | None = None
        tried: list[bytes] = []
        while len(tried) < self._settings.max_attempts:
            agent = self._fleet.pick(
                self._client_request.model_id, self._client_request.operation, tried
            )
            if isinstance(agent, ErrorCode):
                return error or _no_agent_error(agent, self._client_request)
            if tried:
                self._counters.retried += 1
                self._job_id = self._new_job_id()
            tried.append(agent.public_key)
            job_error = await self._run_job(agent)
            if job_error is None:
                return None
            self._job_error = job_error
            error = error_of_job(job_error)
            if self._response is not None or not is_retryable(job_error):
                break
        return error

    async def _run_job(self, agent: ConnectedAgent) -> JobError | None:
        """Run one job on one agent; returns None when its complete response was sent."""
        self._job_error = None
        job = agent.submit(self._new_job())
        try:
            await job.wait()
            if not job.buffered_bytes and isinstance(job.end, JobError):
                return job.end
            started = job.started
            if started is None or not _can_have_body(started.status):
                return self._invalid_response()
            return await self._relay(job, started)
        finally:
            job.owner.abandon(job)

    async def _relay(self, job: RunningJob, started: JobStarted) -> JobError | None:
        """Forward bytes as they arrive; acknowledge those that the client's socket has accepted."""
        response = _response_for(started, self._headers())
        await response.prepare(self._request)
        self._response = response
        timeout_s = self._settings.stalled_client_s
        with ClientStream(self._request, response, timeout_s, self._log_stalled_client) as stream:
            job.set_end_callback(lambda end: _disconnect_slow_client(stream, end))
            while True:
                data = job.take()
                if data:
                    await self._forward(job, data, stream)
                elif job.end is None:
                    await job.wait()
                else:
                    break
            if isinstance(job.end, JobError):
                return job.end
            await stream.finish()
            return None

    async def _forward(self, job: RunningJob, data: bytearray, stream: ClientStream) -> None:
        whole = memoryview(data)
        for start in range(0, len(data), PIECE_BYTES):
            piece = whole[start : start + PIECE_BYTES]
            # Set before the write: the bytes of a cancelled write reach the client too.
            self._tail = (self._tail + bytes(piece[-_TAIL_BYTES:]))[-_TAIL_BYTES:]
            await stream.write(piece)
            job.owner.consume(job, len(piece))

    def _log_stalled_client(self) -> None:
        fields = {"job": self._job_id.hex(), "model": self._client_request.model_id}
        log.warning("stalled client disconnected", **fields)

    async def _abort_response(self, response: web.StreamResponse, error: ClientError) -> None:
        """End an incomplete response so that the client recognizes it as incomplete."""
        last_event = self._last_event(response, error)
        if last_event is not None:
            try:
                async with asyncio.timeout(ERROR_EVENT_TIMEOUT_S):
                    if last_event:
                        await response.write(last_event)
                    await response.write_eof()
            except (TimeoutError, ConnectionError):
                pass
            else:
                return
        abort(self._request)

    def _last_event(self, response: web.StreamResponse, error: ClientError) -> bytes | None:
        """Return the bytes that end an interrupted response; None if it has to be aborted.

        They are empty if the server's own error event was relayed.
        """
        job_error = self._job_error
        if response.content_type != "text/event-stream":
            return None
        if job_error is not None and job_error.error_relayed:
            return b""
        # `between_events` alone does not suffice: in a `JobError` that the coordinator created, for
        # example for a lost link, it has its default, true, whatever was sent.
        declared = job_error is None or job_error.between_events
        if not (declared and ends_between_events(self._tail)):
            return None
        return render_event(self._client_request.operation.wire_format, error)

    def _headers(self) -> dict[str, str]:
        return request_id_headers(self._client_request.operation.wire_format, self._job_id.hex())

    def _new_job_id(self) -> bytes:
        return uuid.UUID(bytes=self._random_bytes(16), version=4).bytes

    def _new_job(self) -> Job:
        client_request = self._client_request
        return Job(
            job_id=self._job_id,
            model_id=client_request.model_id,
            format=client_request.operation.wire_format.value,
            request=client_request.body,
            deadline_ms=max(0, int((self._ends_at - self._clock()) * 1000)),
            operation=client_request.operation.value,
            traceparent=client_request.traceparent,
            sign_receipt=self._settings.receipts is ReceiptMode.SIGNED,
        )

    def _invalid_response(self) -> JobError:
        return JobError(
            self._job_id,
            total_bytes=0,
            code=ErrorCode.INVALID_RESPONSE.value,
            message="The provider's response had no valid HTTP status.",
            retryable=True,
        )


def _disconnect_slow_client(stream: ClientStream, end: JobEnd) -> None:
    """Disconnect a client whose job the agent ended because the client does not read."""
    if isinstance(end, JobError) and end.code == ErrorCode.SLOW_CONSUMER:
        stream.disconnect_if_blocked()


def request_id_headers(wire_format: WireFormat, request_id: str) -> dict[str, str]:
    """Return the request id, in the headers that the official clients read."""
    headers = {"x-request-id": request_id}
    if wire_format is WireFormat.ANTHROPIC:
        headers["request-id"] = request_id
    return headers


def error_response(
    wire_format: WireFormat, error: ClientError, request_id: str | None = None
) -> web.Response:
    """Return an error as a complete HTTP response."""
    headers = {} if request_id is None else request_id_headers(wire_format, request_id)
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    return web.Response(
        status=error.status,
        body=render_body(wire_format, error),
        content_type="application/json",
        headers=headers,
    )


def _response_for(started: JobStarted, headers: dict[str, str]) -> web.StreamResponse:
    content_type = valid_content_type(started.content_type)  # a line break would inject headers
    for header in client_headers((header.name, header.value) for header in started.headers):
        # `x-request-id` is the coordinator's; the server's id is sent under another name.
        is_id = header.name in ("x-request-id", "request-id")
        headers["x-upstream-request-id" if is_id else header.name] = header.value
    headers["Content-Type"] = content_type
    headers["Cache-Control"] = "no-cache"
    if content_type.lower().startswith("text/event-stream"):
        headers["X-Accel-Buffering"] = "no"
    return web.StreamResponse(status=started.status, headers=headers)


def _can_have_body(status: int) -> bool:
    """Whether a response with this status can have a body."""
    return status >= HTTPStatus.OK and status not in _BODILESS


def _no_agent_error(code: ErrorCode, client_request: ClientRequest) -> ClientError:
    """Return the error of a request for which no agent was chosen."""
    model = client_request.model_id
    match code:
        case ErrorCode.MODEL_NOT_LOADED:
            message = f"The model `{model}` is not offered by any connected provider."
        case ErrorCode.FORMAT_NOT_SUPPORTED:
            operation = client_request.operation
            message = (
                f"The model `{model}` is offered, but not for {operation.wire_format} {operation}."
            )
        case ErrorCode.OUT_OF_CAPACITY:
            message = f"Every provider of the model `{model}` is busy or offline; try again soon."
        case _:
            message = ""
    return error_of_code(code, message)
