"""The execution of one job: its task, its deadline, and its one end."""

import asyncio
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from provider_agent.adapters.base import BackendError, BackendTimeout
from provider_agent.adapters.responses.validator import is_event_stream
from provider_agent.agent.backends.adapter_calls import CANCEL_S, AdapterDefect, raise_if_defect
from provider_agent.agent.backends.model_use import JobTiming
from provider_agent.agent.backends.pricing import OfferedPrice
from provider_agent.agent.backends.routing import Route
from provider_agent.agent.jobs.attempts import JobAttempts
from provider_agent.agent.jobs.backend_pool import BackendPool
from provider_agent.agent.jobs.channel import JobChannel
from provider_agent.agent.jobs.ends import (
    JobReport,
    backend_error_end,
    error_end,
    result_end,
    used_tokens,
)
from provider_agent.agent.jobs.poison_requests import PoisonRequests
from provider_agent.agent.jobs.timeline import JobTimeline
from provider_agent.event_log import EventLogger
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import JobEnd, JobError, JobHeader, JobResult, RequestChunk
from provider_agent.protocol.job import join_request

log = EventLogger(__name__)

HANG_S: Final = 30.0
"""Seconds. If a deadline of at least this length passes before the response starts, the backend of
the latest attempt counts as failed. With a shorter deadline, the backend may only be slow."""

INTERNAL_TEXT: Final = "internal error of the agent"
"""The message of an end after a defect; its cause is in the agent's log."""


class StopReason(StrEnum):
    """Why a running job is stopped; the value is the error code of its end."""

    CANCELLED = ErrorCode.CANCELLED.value
    DEADLINE_EXCEEDED = ErrorCode.DEADLINE_EXCEEDED.value
    DRAINING = ErrorCode.DRAINING.value
    SLOW_CONSUMER = ErrorCode.SLOW_CONSUMER.value
    INTERNAL = ErrorCode.INTERNAL.value


class JobExecution:
    """One running job. Creating it starts its first attempt and its task.

    The first attempt counts as a job on its backend at once. The backend receives the request when
    all of it has arrived.

    Args:
        header: the header of the job to execute.
        channel: the job's channel in the outbox.
        route: the backend of the first attempt.
        pool: the backends.
        clock: returns monotonic seconds.
        on_end: called once, with the execution and the job's end.
        price: the price of the model that was offered when the job arrived.
        poison: the requests that were running when servers died.
        timeline: records the times of the job; None: nothing records them.

    Attributes:
        timeline: the argument.
        log_message: `BackendError.log_message` of the error that ended the job; "" before.
    """

    __slots__ = (
        "_arrived",
        "_attempts",
        "_clock",
        "_first_byte_s",
        "_on_end",
        "_price",
        "_request_arrived",
        "_stop_detail",
        "_stop_reason",
        "_task",
        "_timer",
        "channel",
        "header",
        "log_message",
        "timeline",
    )

    def __init__(
        self,
        header: JobHeader,
        channel: JobChannel,
        route: Route,
        pool: BackendPool,
        clock: Callable[[], float],
        on_end: Callable[["JobExecution", JobEnd], None],
        price: OfferedPrice,
        poison: PoisonRequests,
        timeline: JobTimeline | None = None,
    ) -> None:
        self.header = header
        self.timeline = timeline
        self.log_message = ""
        self.channel = channel
        channel.on_started = self._response_started
        self._arrived = clock()
        self._clock = clock
        self._on_end = on_end
        self._price = price
        self._first_byte_s: float | None = None
        self._attempts = JobAttempts(header, channel, route, pool, price, poison, timeline)
        self._request_arrived: asyncio.Event | None = None
        """Set when the request is complete; None: nothing waits for that."""
        self._stop_reason: StopReason | None = None
        self._stop_detail = ""
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._run(), name=f"job {header.job_id.hex()}")
        # A callback, because a task that is cancelled before its first step never runs its own
        # `finally`.
        task.add_done_callback(self._task_done)
        self._task: asyncio.Task[JobEnd | None] | None = task
        """None after the end."""
        self._timer = loop.call_later(header.deadline_ms / 1000, self._deadline_passed)
        """Calls `_deadline_passed` at the deadline. `stop` replaces it by a timer that calls
        `_abandon` after `CANCEL_S`."""

    def __repr__(self) -> str:
        return f"<JobExecution {self.header.job_id.hex()} tried={self._attempts.tried}>"

    @property
    def backend_kind(self) -> str:
        """The kind of the backend of the latest attempt."""
        return self._attempts.latest.backend.kind

    @property
    def attempts(self) -> int:
        """The number of attempts so far."""
        return len(self._attempts.tried)

    @property
    def backend_id(self) -> str:
        """The id of the backend of the latest attempt."""
        return self._attempts.tried[-1]

    @property
    def failover_causes(self) -> tuple[ErrorCode, ...]:
        """The error code of each failed attempt that another attempt followed."""
        return self._attempts.failover_causes

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stop_reason is not None

    @property
    def duration_s(self) -> float:
        """Seconds since the job arrived."""
        return self._clock() - self._arrived

    @property
    def first_byte_s(self) -> float | None:
        """Seconds from the job's arrival to the start of its response; None before that."""
        return self._first_byte_s

    @property
    def used_tokens(self) -> int:
        """A lower bound of the tokens that all attempts together used so far."""
        return self._attempts.used_tokens

    def receive_request(self, chunk: RequestChunk) -> None:
        """Add a piece of the request.

        Raises:
            ProtocolViolation: the piece follows a gap, is empty or exceeds the request's size.
        """
        if self._stop_reason is not None:
            return  # a job that is being stopped ignores further pieces, as an ended job does
        request = self.channel.request
        request.receive(chunk)
        if self._request_arrived is not None and request.complete:
            self._request_arrived.set()

    def stop(self, reason: StopReason, detail: str) -> None:
        """Cancel the job; its end carries `reason` and `detail`. Further calls do nothing.

        No more bytes of the response are sent. A job whose task has ended keeps its own end.
        """
        if self._task is None or self._stop_reason is not None:
            return
        if self._task.done():  # its callback would run in the next step of the event loop
            self._task_done(self._task)
            return
        self._stop_reason = reason
        self._stop_detail = detail
        self.channel.stop()
        self._task.cancel()
        self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(CANCEL_S, self._abandon)

    # --- the task --------------------------------------------------------------------------------

    async def _run(self) -> JobEnd | None:
        """Execute the job; return its end, also after a failure, or None if it was cancelled."""
        try:
            return await self._try_backends()
        except asyncio.CancelledError:
            # Not raised again: the task would keep the exception, whose traceback refers to the
            # request and, through the adapter's `asyncio.timeout`, to the task. Only the cyclic
            # garbage collector would free them.
            return None
        except BackendError as error:
            self.log_message = error.log_message
            return backend_error_end(self._report(), error)
        except Exception:
            log.exception("job failed by an internal error", **self._attempts.log_fields())
            return error_end(self._report(), ErrorCode.INTERNAL, INTERNAL_TEXT)

    async def _try_backends(self) -> JobResult:
        """Execute the job on one backend after the other, until one responds or none is left."""
        request = self.channel.request
        if not request.complete:
            self._request_arrived = asyncio.Event()
            await self._request_arrived.wait()
        if self.timeline is not None:
            self.timeline.request_arrived()
        job = join_request(self.header, request.take())
        self._attempts.set_request(job.request)
        while True:
            started_s = self.duration_s
            try:
                await self._attempts.latest.backend.execute(job, self.channel)
            except BackendError as error:
                # An error after cancellation is no evidence against the backend, and a stopped job
                # must not start again.
                if self._stop_reason is not None or not await self._attempts.fail_over(error):
                    raise
            except (SystemExit, asyncio.CancelledError) as error:
                # A defective adapter can raise either, although the job was not cancelled.
                raise_if_defect(error)
                raise
            else:
                if self.channel.stream.started is None:
                    raise AdapterDefect("the adapter returned without a response")
                self._measure(started_s)
                return result_end(self._report())

    def _measure(self, attempt_started_s: float) -> None:
        """Add a completed event stream to the speed statistics of its model.

        A response that is not an event stream arrives as a whole: its first byte does not show when
        the backend began to generate output.
        """
        started, first_byte_s = self.channel.stream.started, self._first_byte_s
        if started is None or first_byte_s is None or not is_event_stream(started.content_type):
            return
        usage = self.channel.outcome.usage
        self._attempts.latest.report_timing(
            JobTiming(
                input_tokens=usage.input_tokens,
                cached_tokens=usage.cached_tokens,
                output_tokens=usage.output_tokens,
                first_byte_s=first_byte_s - attempt_started_s,
                duration_s=self.duration_s - attempt_started_s,
            )
        )

    def _deadline_passed(self) -> None:
        text = f"the deadline of {self.header.deadline_ms} ms passed"
        try:
            self._report_hang()
        except Exception:
            log.exception("job failed by an internal error", **self._attempts.log_fields())
            self.stop(StopReason.INTERNAL, INTERNAL_TEXT)
        else:
            self.stop(StopReason.DEADLINE_EXCEEDED, text)

    def _report_hang(self) -> None:
        """Report a backend failure if a deadline of at least `HANG_S` passed without a response.

        Without the complete request the backend had nothing to answer, so it has not failed. A
        server that hangs may still answer its health checks; only jobs detect the hang.
        """
        if (
            self.header.deadline_ms / 1000 >= HANG_S
            and self.channel.request.complete
            and self._stop_reason is None
            and self.channel.stream.started is None
        ):
            self._attempts.failed(BackendTimeout("no output before the job's deadline"))

    # --- the end ---------------------------------------------------------------------------------

    def _task_done(self, task: asyncio.Task[JobEnd | None]) -> None:
        if self._task is None:  # `_abandon` or `stop` has already ended the job
            return
        end: JobEnd | None = None
        if not task.cancelled():
            error = task.exception()
            end = task.result() if error is None else self._internal_end(error)
        # An error after cancellation is no evidence against the backend.
        if end is None or self._stop_reason is not None:
            end = self._stopped_end()
        self._finish(end)

    def _abandon(self) -> None:
        """End the job although its adapter ignores its cancellation, and may run forever."""
        if self._task is None or self._task.done():
            return  # the event loop was blocked: the timer ran before the callback of the task
        log.error("adapter ignored cancellation", **self._attempts.log_fields())
        self._finish(self._stopped_end())

    def _finish(self, end: JobEnd) -> None:
        self._timer.cancel()
        self._task = None
        # The channel is kept until the end is acknowledged; it no longer needs the request.
        self.channel.request.take()
        self.channel.report = self._report()
        tokens = used_tokens(self.channel.outcome)
        if isinstance(end, JobResult):
            self._attempts.latest.succeeded(tokens)
        else:
            self._attempts.latest.abandoned(tokens)  # has no effect if `failed` was called before
        if self.timeline is not None:
            self.timeline.ended()
        self._on_end(self, end)

    def _internal_end(self, error: BaseException) -> JobError:
        log.failure("job failed by an internal error", error, **self._attempts.log_fields())
        return error_end(self._report(), ErrorCode.INTERNAL, INTERNAL_TEXT)

    def _stopped_end(self) -> JobError:
        # Without `stop`, only the end of the event loop cancels the task.
        reason = self._stop_reason or StopReason.DRAINING
        self.channel.stop()
        detail = self._stop_detail or "the agent is stopping"
        return error_end(self._report(), ErrorCode(reason.value), detail)

    def _response_started(self) -> None:
        self._first_byte_s = self.duration_s
        if self.timeline is not None:
            self.timeline.response_started()
        self._attempts.latest.responded()

    def _report(self) -> JobReport:
        return JobReport(
            job_id=self.header.job_id,
            total_bytes=self.channel.stream.written,
            outcome=self.channel.outcome,
            backend_id=self._attempts.tried[-1],
            duration_s=self.duration_s,
            first_byte_s=self._first_byte_s,
            price=self._price,
        )
