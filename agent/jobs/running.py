"""The life of a job: admit, run, one end.

Every job that is offered gets a channel in the outbox and exactly one end in it, whatever happens
to the backend, to the job's task or to the agent short of `kill -9`.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum
from typing import Final, Protocol

from msgspec import Struct

from provider_agent.adapters.base import Backend, BackendError, BackendTimeout
from provider_agent.agent.backends.failover import next_route
from provider_agent.agent.backends.routing import Refusal, Route, choose_routes
from provider_agent.agent.backends.token_bucket import limited
from provider_agent.agent.jobs.ends import (
    checked,
    failed,
    failed_at_backend,
    refused,
    since_arrival,
)
from provider_agent.agent.jobs.job_log import end_fields, job_fields
from provider_agent.agent.jobs.outbox import JobChannel, Outbox
from provider_agent.event_log import EventLogger
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import Job, JobEnd, JobError, JobResult
from provider_agent.protocol.limits import MAX_LIVE_JOBS
from provider_agent.protocol.stream import SendStream

log = EventLogger(__name__)

REMEMBERED_JOBS: Final = MAX_LIVE_JOBS
"""Ended jobs whose ids are kept, so that a job that is delivered twice runs once."""


HANG_S: Final = 30.0
"""A job's deadline has to be this long before a backend is to blame for missing it."""


class BackendPool(Protocol):
    """What discovery knows: which backends serve a model now."""

    def routes(self, model_id: str) -> list[Route]:
        """The healthy backends that serve the model, with their load."""
        ...

    def backend(self, backend_id: str) -> Backend:
        """The backend of a route."""
        ...

    def job_started(self, backend_id: str) -> int:
        """A job goes to a backend; its end there is told with the number that is returned."""
        ...

    def job_ended(
        self, backend_id: str, number: int, error: BackendError | None, tokens: int
    ) -> None:
        """A job on a backend is over; `error` says why it failed there, `tokens` what it used."""
        ...

    def job_stopped(self, backend_id: str, number: int) -> None:
        """A job on a backend was stopped from outside, which says nothing about the backend."""
        ...


class JobRecord(Struct, frozen=True):
    """One ended job, for figures and metrics.

    Attributes:
        wire_format: of the request.
        backend_kind: which sort of server ran it; "" when none did.
        end: how it ended.
        first_byte_s: from its arrival to the first byte; None without one.
        attempts: backends that were tried; 0 for a refused job.
    """

    wire_format: str
    backend_kind: str
    end: JobEnd
    first_byte_s: float | None
    attempts: int = 1


class StopReason(StrEnum):
    """Why a running job is stopped, as the code of its end."""

    CANCELLED = ErrorCode.CANCELLED.value
    DRAINING = ErrorCode.DRAINING.value
    SLOW_CONSUMER = ErrorCode.SLOW_CONSUMER.value


class _Running:
    """A job that a backend works on."""

    __slots__ = (
        "arrived",
        "at_work",
        "channel",
        "job",
        "number",
        "stop_detail",
        "stop_reason",
        "task",
        "tried",
    )

    def __init__(self, job: Job, channel: JobChannel, arrived: float) -> None:
        self.job = job
        self.channel = channel
        self.arrived = arrived
        self.tried: list[str] = []
        """Backend ids in the order of the attempts."""
        self.at_work = False
        """Whether it counts at the last of them."""
        self.number = 0
        """Of the attempt, as the backend's guard counts."""
        self.stop_reason: StopReason | None = None
        self.stop_detail = ""
        self.task: asyncio.Task[JobEnd] | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether it is being stopped, by somebody or by its deadline."""
        return self.task is not None and self.task.cancelling() > 0


class Jobs:
    """All jobs of the agent.

    Args:
        served: which backends serve what.
        outbox: where responses and ends go.
        max_concurrent: jobs at once, all backends together.
        on_end: told of every job's end.
        clock: monotonic, in seconds.
        tokens_per_minute: what all jobs together may use; None: no limit.
    """

    def __init__(
        self,
        served: BackendPool,
        outbox: Outbox,
        max_concurrent: int,
        on_end: Callable[[JobRecord], None],
        clock: Callable[[], float] = time.monotonic,
        tokens_per_minute: int | None = None,
    ) -> None:
        self.max_concurrent = max_concurrent
        self.accepting = True
        """False once the agent drains: further jobs are refused with `draining`."""
        self.completed = 0
        """Jobs so far whose end is a result."""
        self.last_offer_at: float | None = None
        self._served = served
        self._outbox = outbox
        self._on_end = on_end
        self._clock = clock
        self._running: dict[bytes, _Running] = {}
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._bucket = limited(None, tokens_per_minute, clock)
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return f"<Jobs {self.in_flight}/{self.max_concurrent} accepting={self.accepting}>"

    @property
    def in_flight(self) -> int:
        """Jobs running now."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """Those of them that have not had a byte of response yet."""
        return sum(1 for running in self._running.values() if not running.channel.stream.written)

    def limit(self, max_concurrent: int, tokens_per_minute: int | None) -> None:
        """From now on take so much on; jobs that run already go on."""
        self.max_concurrent = max_concurrent
        self._bucket = limited(self._bucket, tokens_per_minute, self._clock)

    def offer(self, job: Job) -> None:
        """Take a job, or refuse it with its end; never waits. A job offered twice runs once.

        Raises:
            ProtocolViolation: the coordinator has given more jobs than an agent has to hold.
        """
        self.last_offer_at = arrived = self._clock()
        # `_seen` forgets; the outbox never does while the job still has a channel there.
        if job.job_id in self._seen or job.job_id in self._outbox:
            return
        channel = self._outbox.open(job.job_id)
        self._remember(job.job_id)
        route = self._admit(job)
        if isinstance(route, Refusal):
            self._end(job, channel, "", refused(job, route), arrived, 0)
            return
        running = self._running[job.job_id] = _Running(job, channel, arrived)
        self._idle.clear()
        self._move_to(running, route.backend_id)
        running.task = asyncio.create_task(self._run(running), name=f"job {job.job_id.hex()}")
        # A callback and not the task itself: a task that is cancelled before its first step never
        # runs a line of its own.
        running.task.add_done_callback(lambda task: self._finished(running, task))

    def cancel(self, job_id: bytes, reason: str) -> None:
        """Stop a running job; one that is unknown or has ended is left alone."""
        self._stop(job_id, StopReason.CANCELLED, reason)

    def end_stalled(self, stream: SendStream) -> None:
        """End a job whose consumer takes nothing, running or not; bytes not yet sent are lost."""
        job_id, text = stream.job_id, "the consumer took nothing of the response for too long"
        if job_id in self._running:
            self._stop(job_id, StopReason.SLOW_CONSUMER, text)
            return
        if stream.end_sent:  # nothing is left to say: the end itself is what is not acknowledged
            self._outbox.forget([job_id])
        else:
            stream.drop_unsent()
            end = failed(job_id, stream.written, ErrorCode.SLOW_CONSUMER, text)
            self._outbox.finish(end)
        log.warning("response abandoned", job=job_id.hex(), reason=text)

    def stop_all(self, reason: StopReason, detail: str) -> None:
        """Stop every running job."""
        for job_id in list(self._running):
            self._stop(job_id, reason, detail)

    async def wait_until_idle(self) -> None:
        """Return when no job runs."""
        await self._idle.wait()

    def _remember(self, job_id: bytes) -> None:
        self._seen[job_id] = None
        if len(self._seen) > REMEMBERED_JOBS:
            self._seen.popitem(last=False)

    def _admit(self, job: Job) -> Route | Refusal:
        if not self.accepting:
            return Refusal(ErrorCode.DRAINING, "the agent is stopping and takes no new jobs")
        chosen = self._routes(job)
        if isinstance(chosen, Refusal):
            return chosen
        if self.in_flight >= self.max_concurrent:
            return Refusal(
                ErrorCode.OUT_OF_CAPACITY, f"the agent already runs {self.in_flight} jobs"
            )
        if self._bucket is not None and self._bucket.wait_s:
            text = "the operator's limit of tokens per minute is used up"
            return Refusal(ErrorCode.OUT_OF_CAPACITY, text, self._bucket.wait_s)
        return chosen[0]

    def _routes(self, job: Job) -> list[Route] | Refusal:
        return choose_routes(job.format, job.operation, self._served.routes(job.model_id))

    def _move_to(self, running: _Running, backend_id: str) -> None:
        """The job goes to a backend, the first time or after a failure elsewhere."""
        running.tried.append(backend_id)
        running.at_work = True
        running.channel.assign(backend_id)
        running.number = self._served.job_started(backend_id)

    def _leave(self, running: _Running) -> str:
        """The job no longer counts at its backend, whose id is returned."""
        backend_id = running.tried[-1]
        running.at_work = False
        return backend_id

    async def _run(self, running: _Running) -> JobEnd:
        """The job's task: its end, whatever the backends do. Raises only when cancelled."""
        deadline = asyncio.timeout(running.job.deadline_ms / 1000)
        try:
            async with deadline:
                return await self._try_backends(running)
        except Exception as error:
            if deadline.expired():
                self._count_hang(running)
                text = f"the deadline of {running.job.deadline_ms} ms passed"
                return self._failed(running, ErrorCode.DEADLINE_EXCEEDED, text)
            if isinstance(error, BackendError):
                return failed_at_backend(running.job, running.channel.stream.written, error)
            log.exception("a job failed by a defect of the agent", **_fields(running))
            return self._failed(running, ErrorCode.INTERNAL, "a defect of the agent")

    def _failed(self, running: _Running, code: ErrorCode, message: str) -> JobError:
        return failed(running.job.job_id, running.channel.stream.written, code, message)

    def _count_hang(self, running: _Running) -> None:
        """A long deadline without a byte of output is the backend's failure too.

        A server that hangs may still answer its health checks; only jobs notice.
        """
        patient = running.job.deadline_ms / 1000 >= HANG_S and running.stop_reason is None
        if patient and running.at_work and running.channel.stream.started is None:
            hang = BackendTimeout("no output before the job's deadline")
            self._served.job_ended(self._leave(running), running.number, hang, 0)

    async def _try_backends(self, running: _Running) -> JobResult:
        """Run the job; after a failure without output, where `failover.next_route` says."""
        job, stream = running.job, running.channel.stream
        while True:
            backend = self._served.backend(running.tried[-1])
            began = self._clock()
            try:
                reported = await backend.execute(job, running.channel)
                result = checked(job, stream.written, reported)
            except BackendError as error:
                route = self._route_after(running, error)
                if route is None:
                    raise
                log.info("job failed over", **_fields(running, error=str(error.code)))
                self._move_to(running, route.backend_id)
            else:
                return since_arrival(result, began - running.arrived)

    def _route_after(self, running: _Running, error: BackendError) -> Route | None:
        """Where a job goes on that has just failed; None: nowhere."""
        if running.is_stopping:
            # What an adapter raises while it is being stopped says nothing about its server, and a
            # job that nobody waits for must not begin anew.
            return None
        # First it leaves, so that its own slot is free for a second attempt, and so that a backend
        # that its failure has taken out gets none.
        self._served.job_ended(self._leave(running), running.number, error, 0)
        routes = self._routes(running.job)
        others = [] if isinstance(routes, Refusal) else routes
        # With the start of a response its status and content type are promised.
        has_output = running.channel.stream.started is not None
        return next_route(error, others, running.tried, has_output=has_output)

    def _stop(self, job_id: bytes, reason: StopReason, detail: str) -> None:
        running = self._running.get(job_id)
        if running is None or running.task is None or running.stop_reason is not None:
            return
        running.stop_reason = reason
        running.stop_detail = detail
        running.task.cancel()

    def _finished(self, running: _Running, task: asyncio.Task[JobEnd]) -> None:
        """The one owner of a job task's death."""
        job, channel = running.job, running.channel
        end: JobEnd | None = None if task.cancelled() else task.result()
        # What an adapter raises while it is being stopped says nothing about its server.
        if end is None or (isinstance(end, JobError) and running.stop_reason is not None):
            reason = running.stop_reason or StopReason.DRAINING
            if reason is StopReason.SLOW_CONSUMER:
                # The end must not wait behind bytes that nobody takes.
                channel.stream.drop_unsent()
            detail = running.stop_detail or "the agent is stopping"
            end = self._failed(running, ErrorCode(reason.value), detail)
        backend = self._served.backend(running.tried[-1])
        del self._running[job.job_id]
        if running.at_work:
            self._ended_at(self._leave(running), running.number, end)
        if not self._running:
            self._idle.set()
        self._end(job, channel, backend.kind, end, running.arrived, len(running.tried))

    def _ended_at(self, backend_id: str, number: int, end: JobEnd) -> None:
        """A job is over that no backend failed."""
        if not isinstance(end, JobResult):
            self._served.job_stopped(backend_id, number)
            return
        tokens = (end.input_tokens or 0) + (end.output_tokens or 0)
        self._served.job_ended(backend_id, number, None, tokens)
        if self._bucket is not None:
            self._bucket.spend(tokens)

    def _end(
        self, job: Job, channel: JobChannel, kind: str, end: JobEnd, arrived: float, attempts: int
    ) -> None:
        channel.finish(end)
        self.completed += isinstance(end, JobResult)
        first = end.first_byte_ms if isinstance(end, JobResult) else None
        first_byte_s = None if first is None else first / 1000
        self._on_end(JobRecord(job.format, kind, end, first_byte_s, attempts))
        level = logging.INFO if isinstance(end, JobResult) else logging.WARNING
        log.log(level, "job ended", **end_fields(job, kind, end, self._clock() - arrived))


def _fields(running: _Running, **more: object) -> dict[str, object]:
    return job_fields(running.job, running.tried[-1], **more)
