"""One HTTP request and the jobs that answer it.

Nothing goes to the client before a first byte or the end is there, so that until then another agent
may be tried. From then on the response is what the agent sends, byte for byte; when it breaks off,
an event stream gets one error event, and anything else an aborted connection, so that nobody takes
a part for the whole.
"""

import asyncio
import re
import uuid
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from aiohttp import web
from msgspec import Struct

from provider_agent.coordinator.agents.connected_agent import ConnectedAgent
from provider_agent.coordinator.agents.fleet import Fleet
from provider_agent.coordinator.http.client_request import ClientRequest
from provider_agent.coordinator.http.client_stream import PIECE_BYTES, ClientStream, abort
from provider_agent.coordinator.http.error_shapes import (
    Failure,
    failure_of_code,
    failure_of_job,
    may_try_elsewhere,
    render_body,
    render_event,
)
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.event_log import EventLogger
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import WireFormat
from provider_agent.protocol.frames import Job, JobEnd, JobError, JobStarted

log = EventLogger(__name__)

LAST_WORDS_S: Final = 5.0
"""How long a client may take to accept the error event of a broken stream."""

_TAIL_BYTES: Final = 4  # CR LF CR LF, the longest end of an event

_PRINTABLE: Final = re.compile(r"[\x20-\x7e]+")
_BODILESS: Final = frozenset(
    {HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT, HTTPStatus.NOT_MODIFIED}
)


class Counters(Struct):
    """What is left of a request when it is over.

    Attributes:
        requests: that were well-formed and reached the choice of an agent.
        completed: answered to the end.
        failed: answered with an error, or broken off.
        gone: left by their client, or not taken by it.
        retried: jobs that went to another agent after a failure.
    """

    requests: int = 0
    completed: int = 0
    failed: int = 0
    gone: int = 0
    retried: int = 0


class Exchange:
    """One request.

    Args:
        request: the HTTP side.
        asked: what it asks for.
        fleet: who may answer.
        settings: limits and clocks.
        counters: where the outcome is counted.
        clock: seconds, monotonic.
        random_bytes: makes job ids.
    """

    def __init__(
        self,
        request: web.Request,
        asked: ClientRequest,
        *,
        fleet: Fleet,
        settings: CoordinatorSettings,
        counters: Counters,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._request = request
        self._asked = asked
        self._fleet = fleet
        self._settings = settings
        self._counters = counters
        self._clock = clock
        self._random_bytes = random_bytes
        self._ends_at = clock() + settings.deadline_s
        self._job_id = self._new_job_id()
        self._response: web.StreamResponse | None = None
        self._tail = b""

    def __repr__(self) -> str:
        return f"<Exchange {self._job_id.hex()} {self._asked.operation} {self._asked.model_id!r}>"

    async def run(self) -> web.StreamResponse:
        """Answer the request.

        Cancelling it means that the client is gone: the job is cancelled at its agent at once.
        """
        self._counters.requests += 1
        patience_s = self._settings.deadline_s + self._settings.deadline_grace_s
        try:
            async with asyncio.timeout(patience_s):
                failure = await self._answer()
        except TimeoutError:
            failure = failure_of_code(ErrorCode.DEADLINE_EXCEEDED)
        except asyncio.CancelledError:
            self._counters.gone += 1
            raise
        except ConnectionError:
            self._counters.gone += 1
            return self._response or web.Response()
        if self._response is not None and failure is None:
            self._counters.completed += 1
            return self._response
        self._counters.failed += 1
        failure = failure or failure_of_code(ErrorCode.INTERNAL)
        if self._response is None:
            return error_response(self._asked.operation.wire_format, failure, self._job_id.hex())
        await self._break_off(self._response, failure)
        return self._response

    async def _answer(self) -> Failure | None:
        """Try agents until one answers; None when the whole response is with the client."""
        failure: Failure | None = None
        tried: list[bytes] = []
        while len(tried) < self._settings.max_attempts:
            agent = self._fleet.pick(self._asked.model_id, self._asked.operation, tried)
            if isinstance(agent, ErrorCode):
                return failure or _nobody(agent, self._asked)
            if tried:
                self._counters.retried += 1
                self._job_id = self._new_job_id()
            tried.append(agent.public_key)
            error = await self._attempt(agent)
            if error is None:
                return None
            failure = failure_of_job(error)
            if self._response is not None or not may_try_elsewhere(error):
                break
        return failure

    async def _attempt(self, agent: ConnectedAgent) -> JobError | None:
        """One job at one agent; None when it answered to the end."""
        job = agent.submit(self._new_job())
        try:
            await job.wait()
            if not job.buffered_bytes and isinstance(job.end, JobError):
                return job.end
            started = job.started
            if started is None or not _can_carry(started.status):
                return self._invalid()
            return await self._relay(job, started)
        finally:
            job.owner.abandon(job)

    async def _relay(self, job: RunningJob, started: JobStarted) -> JobError | None:
        """Relay bytes as they come; acknowledge those that the client's socket has taken."""
        response = _response_for(started, self._headers())
        await response.prepare(self._request)
        self._response = response
        patience_s = self._settings.stalled_client_s
        with ClientStream(self._request, response, patience_s, self._log_stall) as stream:
            job.set_end_callback(lambda end: _cut_slow_client(stream, end))
            while True:
                data = job.take()
                if data:
                    await self._pass_on(job, data, stream)
                elif job.end is None:
                    await job.wait()
                else:
                    break
            if isinstance(job.end, JobError):
                return job.end
            await stream.finish()
            return None

    async def _pass_on(self, job: RunningJob, data: bytearray, stream: ClientStream) -> None:
        whole = memoryview(data)
        for start in range(0, len(data), PIECE_BYTES):
            piece = whole[start : start + PIECE_BYTES]
            await stream.write(piece)
            job.owner.acknowledge(job, len(piece))
        self._tail = (self._tail + data[-_TAIL_BYTES:])[-_TAIL_BYTES:]

    def _log_stall(self) -> None:
        fields = {"job": self._job_id.hex(), "model": self._asked.model_id}
        log.warning("client takes nothing and is cut off", **fields)

    async def _break_off(self, response: web.StreamResponse, failure: Failure) -> None:
        """End a response that cannot be completed, so that it is not taken for a whole one."""
        wire_format = self._asked.operation.wire_format
        if response.content_type == "text/event-stream":
            try:
                async with asyncio.timeout(LAST_WORDS_S):
                    await response.write(render_event(wire_format, failure, self._tail))
                    await response.write_eof()
            except (TimeoutError, ConnectionError):
                pass
            else:
                return
        abort(self._request)

    def _headers(self) -> dict[str, str]:
        return request_id_headers(self._asked.operation.wire_format, self._job_id.hex())

    def _new_job_id(self) -> bytes:
        return uuid.UUID(bytes=self._random_bytes(16), version=4).bytes

    def _new_job(self) -> Job:
        asked = self._asked
        return Job(
            job_id=self._job_id,
            model_id=asked.model_id,
            format=asked.operation.wire_format.value,
            request=asked.body,
            deadline_ms=max(0, int((self._ends_at - self._clock()) * 1000)),
            operation=asked.operation.value,
            traceparent=asked.traceparent,
        )

    def _invalid(self) -> JobError:
        return JobError(
            self._job_id,
            total_bytes=0,
            code=ErrorCode.INVALID_RESPONSE.value,
            message="The provider's answer had no usable HTTP status.",
            retryable=True,
        )


def _cut_slow_client(stream: ClientStream, end: JobEnd) -> None:
    """The agent gave the job up because its answer is not taken: so is the client."""
    if isinstance(end, JobError) and end.code == ErrorCode.SLOW_CONSUMER:
        stream.cut_if_blocked()


def request_id_headers(wire_format: WireFormat, request_id: str) -> dict[str, str]:
    """The id under the name that each official client looks for."""
    headers = {"x-request-id": request_id}
    if wire_format is WireFormat.ANTHROPIC:
        headers["request-id"] = request_id
    return headers


def error_response(
    wire_format: WireFormat, failure: Failure, request_id: str | None = None
) -> web.Response:
    """A failure as a whole HTTP response."""
    headers = {} if request_id is None else request_id_headers(wire_format, request_id)
    if failure.retry_after_s is not None:
        headers["Retry-After"] = str(failure.retry_after_s)
    return web.Response(
        status=failure.status,
        body=render_body(wire_format, failure),
        content_type="application/json",
        headers=headers,
    )


def _response_for(started: JobStarted, headers: dict[str, str]) -> web.StreamResponse:
    content_type = started.content_type
    if not _PRINTABLE.fullmatch(content_type):  # a line break would forge headers
        content_type = "application/octet-stream"
    headers["Content-Type"] = content_type
    headers["Cache-Control"] = "no-cache"
    if content_type.lower().startswith("text/event-stream"):
        headers["X-Accel-Buffering"] = "no"
    return web.StreamResponse(status=started.status, headers=headers)


def _can_carry(status: int) -> bool:
    """Whether a response with this status can hold a body."""
    return status >= HTTPStatus.OK and status not in _BODILESS


def _nobody(code: ErrorCode, asked: ClientRequest) -> Failure:
    """No agent was asked at all."""
    model = asked.model_id
    match code:
        case ErrorCode.MODEL_NOT_LOADED:
            message = f"The model `{model}` is not offered by any connected provider."
        case ErrorCode.FORMAT_NOT_SUPPORTED:
            operation = asked.operation
            message = (
                f"The model `{model}` is offered, but not natively for {operation.wire_format} "
                f"{operation}."
            )
        case ErrorCode.OUT_OF_CAPACITY:
            message = f"Every provider of the model `{model}` is busy or away; try again soon."
        case _:
            message = ""
    return failure_of_code(code, message)
