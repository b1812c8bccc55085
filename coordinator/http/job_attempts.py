"""The jobs of one request until the first byte of output: one agent after another."""

from collections import Counter
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from provider_agent.coordinator.agents.dispatcher import Dispatcher, NoAgent
from provider_agent.coordinator.agents.waiting_requests import Wanted
from provider_agent.coordinator.http.client_errors import (
    ClientError,
    error_of_code,
    error_of_job,
    error_of_reason,
)
from provider_agent.coordinator.http.client_request import ClientRequest
from provider_agent.coordinator.http.counters import Counters
from provider_agent.coordinator.http.request_record import RequestRecord
from provider_agent.coordinator.http.responses import can_have_body
from provider_agent.coordinator.sessions.detached_session import LostJob
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.coordinator.settings import CoordinatorSettings, ReceiptMode
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import JobError
from provider_agent.protocol.job import Job

_NOT_RUN: Final = frozenset(
    {
        ErrorCode.OUT_OF_CAPACITY,
        ErrorCode.DRAINING,
        ErrorCode.MODEL_NOT_LOADED,
        ErrorCode.FORMAT_NOT_SUPPORTED,
    }
)
"""Codes of an agent that did not run the job; such a job does not count as an attempt."""

MAX_REFUSALS: Final = 48
"""After so many refusals of one request, an agent does not receive it again. Within the default
time in the queue, it refuses fewer. The limit is per agent, so that several agents of one operator
cannot end a request that waits for other agents."""


class JobAttempts:
    """Finds an agent that answers a request.

    Args:
        client_request: the validated content of the request.
        dispatcher: sends jobs to agents.
        settings: limits and timeouts.
        counters: counts the additional jobs.
        record: notes the jobs of the request.
        clock: monotonic, in seconds.
        job_id_bytes: generates job ids.

    Attributes:
        job_id: the id of the latest job.
        error: the latest error of an agent; None if there was none.
    """

    def __init__(
        self,
        client_request: ClientRequest,
        *,
        dispatcher: Dispatcher,
        settings: CoordinatorSettings,
        counters: Counters,
        record: RequestRecord,
        clock: Callable[[], float],
        job_id_bytes: Callable[[int], bytes],
    ) -> None:
        self._client_request = client_request
        self._dispatcher = dispatcher
        self._settings = settings
        self._counters = counters
        self._record = record
        self._clock = clock
        self._job_id_bytes = job_id_bytes
        self._ends_at = clock() + settings.deadline_s
        self._wait_until = clock() + settings.queue_s
        self._number = dispatcher.next_number()
        self._tried: frozenset[bytes] = frozenset()
        self._jobs = 0
        self._refusals = Counter[bytes]()
        self.error: ClientError | None = None
        self.job_id = self._new_job_id()

    def __repr__(self) -> str:
        return (
            f"<JobAttempts {self.job_id.hex()} jobs={self._jobs} refusals={self._refusals.total()}>"
        )

    async def first_output(self) -> RunningJob | ClientError:
        """Return a job whose output or result has arrived; the caller abandons it in the end.

        A cancellation cancels the job.
        """
        while self._attempts < self._settings.max_attempts:
            wait_s = self._wait_until - self._clock()
            try:
                job = await self._dispatcher.submit(self._wanted(), self._next_job, wait_s)
            finally:
                self._record.left_queue()
            if isinstance(job, NoAgent):
                return self._error_without_agent(job)
            self._record.job = job
            error = await self._run(job)
            if not isinstance(error, JobError):
                return error
            self.error = error_of_job(error)
            if not error.retryable:
                break
        return self.error or error_of_code(ErrorCode.INTERNAL)

    def _error_without_agent(self, no_agent: NoAgent) -> ClientError:
        request = self._client_request
        own = error_of_reason(no_agent.reason, request.model_id, request.operation, no_agent.detail)
        error = self.error or own
        if (error.status, error.code) == (own.status, own.code):
            error = own  # it says more than the last of several agents that had no room
        # The estimate for the queue replaces what the last agent said about itself.
        if error.retry_after_s is None or no_agent.retry_after_s is None:
            return error
        return replace(error, retry_after_s=no_agent.retry_after_s)

    async def _run(self, job: RunningJob) -> RunningJob | JobError:
        job = await self._with_output(job)
        error = _error_before_output(job)
        if error is None:
            return job
        job.owner.abandon(job)
        if error.code in _NOT_RUN:
            self._refusals[job.public_key] += 1
        else:
            self._wait_until = self._clock() + self._settings.queue_s
        # A request that has already waited for a lost agent does not wait for it again.
        if isinstance(error, LostJob) and error.may_return and job.public_key not in self._tried:
            return error
        had_no_room = error.code == ErrorCode.OUT_OF_CAPACITY
        may_have_room_in_time = had_no_room and self._clock() < self._wait_until
        if not may_have_room_in_time or self._refusals[job.public_key] >= MAX_REFUSALS:
            self._tried |= {job.public_key}
        else:
            self._tried -= {job.public_key}  # it seemed lost, and has returned without the job
        return error

    async def _with_output(self, job: RunningJob) -> RunningJob:
        """Wait for output or the end of a job, or of another one if its agent is lost."""
        try:
            await job.wait_while(lost=False)
            while not job.has_output and self._attempts < self._settings.max_attempts:
                self._tried |= {job.public_key}
                job = await self._dispatcher.replace(job, self._wanted(), self._next_job)
                self._record.job = job
                self.job_id = job.job_id  # the first job, if its output came before the second's
                await job.wait_while(lost=False)
            await job.wait()
        except BaseException:
            job.owner.abandon(job)
            raise
        return job

    @property
    def _attempts(self) -> int:
        """How many jobs an agent has run, or is running."""
        return self._jobs - self._refusals.total()

    def _wanted(self) -> Wanted:
        request = self._client_request
        return Wanted(
            self._number, request.model_id, request.operation, self._tried, request.wants_stream
        )

    def _next_job(self) -> Job:
        if self._jobs:
            self._counters.retried += 1
            self.job_id = self._new_job_id()
        self._jobs += 1
        self._record.job_sent()
        client_request = self._client_request
        return Job(
            job_id=self.job_id,
            model_id=client_request.model_id,
            format=client_request.operation.wire_format.value,
            request=client_request.body,
            deadline_ms=max(0, int((self._ends_at - self._clock()) * 1000)),
            operation=client_request.operation.value,
            traceparent=client_request.traceparent,
            sign_receipt=self._settings.receipts is ReceiptMode.SIGNED,
        )

    def _new_job_id(self) -> bytes:
        """Return the bytes of a UUID of version 4 (RFC 9562, section 5.4)."""
        job_id = bytearray(self._job_id_bytes(16))
        job_id[6] = job_id[6] & 0x0F | 0x40
        job_id[8] = job_id[8] & 0x3F | 0x80
        return bytes(job_id)


def _error_before_output(job: RunningJob) -> JobError | None:
    """Return why a job that has output or an end is not an answer; None if it is one."""
    if not job.buffered_bytes and isinstance(job.end, JobError):
        return job.end
    if job.started is not None and can_have_body(job.started.status):
        return None
    return JobError(
        job.job_id,
        total_bytes=0,
        code=ErrorCode.INVALID_RESPONSE.value,
        message="The provider's response had no valid HTTP status.",
        retryable=True,
    )
