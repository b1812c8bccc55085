"""Handles one client request: its jobs and its response.

Nothing is sent to the client before the first byte or the end of a job, so that until then another
agent can be tried. After that the response is what the agent sends, byte for byte.

A client must not mistake a part of a response for the whole. An interrupted event stream ends with
one error event: the server's own if it was relayed; otherwise, if the last event is complete, the
coordinator's in the operation's format. In every other case the connection is aborted.

Many clients disconnect as soon as they have the final event of a stream. Such a response is
complete if the client's socket has accepted that event: its job is not cancelled, and its end,
which reports the tokens, is awaited.
"""

import asyncio
from contextlib import suppress
from typing import Final

from aiohttp import web

from provider_agent.coordinator.http.client_errors import (
    ClientError,
    error_of_code,
    error_of_job,
)
from provider_agent.coordinator.http.client_request import ClientRequest
from provider_agent.coordinator.http.client_stream import ClientStream, abort
from provider_agent.coordinator.http.counters import Counters
from provider_agent.coordinator.http.error_bodies import render_event
from provider_agent.coordinator.http.job_attempts import JobAttempts
from provider_agent.coordinator.http.relayed_events import RelayedEvents
from provider_agent.coordinator.http.request_record import OK, RequestRecord
from provider_agent.coordinator.http.responses import (
    error_response,
    relayed_response,
    request_id_headers,
)
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.event_log import EventLogger
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import JobError, JobStarted

log = EventLogger(__name__)

ERROR_EVENT_TIMEOUT_S: Final = 5.0
"""Seconds that a client may take to read the error event of an interrupted stream."""

END_TIMEOUT_S: Final = 5.0
"""Seconds that the end of a job may take after its final event, if the client has left."""


class RequestHandler:
    """Handles one request.

    Args:
        request: the HTTP request.
        client_request: the validated content of the request.
        attempts: finds an agent that answers the request.
        settings: limits and timeouts.
        counters: counts the outcome of the request.
        record: notes the outcome of the request.
    """

    def __init__(
        self,
        request: web.Request,
        client_request: ClientRequest,
        attempts: JobAttempts,
        *,
        settings: CoordinatorSettings,
        counters: Counters,
        record: RequestRecord,
    ) -> None:
        self._request = request
        self._client_request = client_request
        self._settings = settings
        self._counters = counters
        self._record = record
        self._attempts = attempts
        self._response: web.StreamResponse | None = None
        self._events: RelayedEvents | None = None
        self._job_error: JobError | None = None

    def __repr__(self) -> str:
        request = self._client_request
        return f"<RequestHandler {self._job_id} {request.operation} {request.model_id!r}>"

    @property
    def _job_id(self) -> str:
        return self._attempts.job_id.hex()

    async def run(self) -> web.StreamResponse:
        """Send the response.

        aiohttp cancels this method when the client disconnects, which cancels the job at once,
        unless the client has the final event of the stream.
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
            self._record.code = OK
            return self._response
        self._counters.failed += 1
        error = error or error_of_code(ErrorCode.INTERNAL)
        self._record.failed(error)
        if self._response is None:
            self._record.status = error.status
            return error_response(
                self._client_request.operation.wire_format, error, self._attempts.job_id.hex()
            )
        await self._abort_response(self._response, error)
        return self._response

    async def _respond(self) -> ClientError | None:
        """Run jobs until one has output; relay its response. Return None if all of it was sent."""
        job = await self._attempts.first_output()
        if isinstance(job, ClientError):
            return job
        started = job.started
        try:
            if started is None:
                return error_of_code(ErrorCode.INVALID_RESPONSE)
            self._job_error = await self._relay(job, started)
        finally:
            job.owner.abandon(job)
        return None if self._job_error is None else error_of_job(self._job_error)

    async def _relay(self, job: RunningJob, started: JobStarted) -> JobError | None:
        """Forward bytes as they arrive; acknowledge those that the client's socket has accepted."""
        response = self._response = relayed_response(started, self._headers())
        await response.prepare(self._request)
        self._record.response_started(response.status)
        if response.content_type == "text/event-stream":
            self._events = RelayedEvents()
        stream = ClientStream(
            self._request,
            response,
            job,
            self._events,
            stalled_s=self._settings.stalled_client_s,
            on_disconnect=self._log_stalled_client,
        )
        try:
            end = await stream.relay()
        except (asyncio.CancelledError, ConnectionError):
            if stream.has_unsent or not self._has_final_event(job):
                raise
            await _wait_for_end(job)
            if job.end is None:
                raise
            end = job.end
        finally:
            self._record.response_bytes = stream.written_bytes
        return end if isinstance(end, JobError) else None

    def _has_final_event(self, job: RunningJob) -> bool:
        """Whether the final event of the stream was written, and nothing is left to write."""
        events = self._events
        return events is not None and not job.buffered_bytes and events.final_event_relayed()

    def _log_stalled_client(self) -> None:
        fields = {"job": self._job_id, "model": self._client_request.model_id}
        log.warning("stalled client disconnected", **fields)

    async def _abort_response(self, response: web.StreamResponse, error: ClientError) -> None:
        """End an incomplete response so that the client recognizes it as incomplete."""
        last_event = self._last_event(error)
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

    def _last_event(self, error: ClientError) -> bytes | None:
        """Return the bytes that end an interrupted response; None if it has to be aborted.

        They are empty if the server's own error event was relayed.
        """
        job_error, events = self._job_error, self._events
        if events is None:
            return None
        # What the agent says does not suffice: the `JobError` may be the coordinator's own, for
        # example for a lost link, and then has the default values.
        if events.error_relayed() or (job_error is not None and job_error.error_relayed):
            return b""
        declared = job_error is None or job_error.between_events
        if not (declared and events.between_events):
            return None
        operation = self._client_request.operation
        return render_event(operation, error, events.next_sequence_number())

    def _headers(self) -> dict[str, str]:
        return request_id_headers(
            self._client_request.operation.wire_format, self._attempts.job_id.hex()
        )


async def _wait_for_end(job: RunningJob) -> None:
    """Return when a job has ended or sends more bytes, after `END_TIMEOUT_S` at the latest."""
    with suppress(TimeoutError):
        async with asyncio.timeout(END_TIMEOUT_S):
            await job.wait()
