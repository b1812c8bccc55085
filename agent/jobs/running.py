"""The table of running jobs: accepts, stops and ends them.

Every submitted job gets a channel in the outbox and exactly one end there, even if its backend or
its task fails or the agent drains.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Final

from msgspec.structs import replace

from provider_agent.adapters.responses.validator import is_event_stream
from provider_agent.agent.backends.pricing import OfferedPrice
from provider_agent.agent.backends.routing import Refusal, RefusalReason
from provider_agent.agent.jobs.admission import JobAdmission
from provider_agent.agent.jobs.backend_pool import BackendPool
from provider_agent.agent.jobs.channel import JobChannel
from provider_agent.agent.jobs.ends import (
    JobReport,
    error_end,
    refusal_end,
    used_tokens,
)
from provider_agent.agent.jobs.execution import INTERNAL_TEXT, JobExecution, StopReason
from provider_agent.agent.jobs.job_log import end_fields, end_level
from provider_agent.agent.jobs.job_record import JobRecord
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.jobs.poison_requests import PoisonRequests
from provider_agent.agent.jobs.receipt_issuer import ReceiptIssuer
from provider_agent.agent.jobs.timeline import JobTimeline
from provider_agent.event_log import EventLogger
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import (
    JobEnd,
    JobError,
    JobHeader,
    JobResult,
    ModelOffer,
    RequestChunk,
    ResponseFrame,
)
from provider_agent.protocol.limits import MAX_LIVE_JOBS
from provider_agent.protocol.send_stream import SendStream

log = EventLogger(__name__)

REMEMBERED_JOBS: Final = MAX_LIVE_JOBS
"""The most job ids that are remembered, so that a job that is delivered twice runs once."""


class Jobs:
    """All running jobs of the agent.

    Args:
        pool: the backends.
        outbox: receives responses and ends.
        max_concurrent: the most jobs that run at the same time, on all backends together.
        on_end: called with the record of each job when it ends.
        clock: returns monotonic seconds.
        tokens_per_minute: the most tokens that all jobs together may use; if None, unlimited.
        receipts: issues the receipts of jobs; None: jobs have none.
        traced: whether to record the times of jobs, for traces.

    Attributes:
        completed: the number of jobs so far whose end is a result.
        last_job_at: the time by `clock` when a job was last submitted; None before the first job.
    """

    def __init__(
        self,
        pool: BackendPool,
        outbox: Outbox,
        max_concurrent: int,
        on_end: Callable[[JobRecord], None],
        clock: Callable[[], float] = time.monotonic,
        tokens_per_minute: int | None = None,
        receipts: ReceiptIssuer | None = None,
        *,
        traced: bool = False,
    ) -> None:
        self._traced = traced
        self.completed = 0
        self.last_job_at: float | None = None
        self._pool = pool
        self._admission = JobAdmission(pool, max_concurrent, tokens_per_minute, clock)
        self._outbox = outbox
        self._receipts = receipts
        self._on_end = on_end
        self._clock = clock
        self._poison = PoisonRequests(clock)
        self._prices: dict[str, OfferedPrice] = {}
        self._running: dict[bytes, JobExecution] = {}
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return (
            f"<Jobs {self.in_flight}/{self.max_concurrent} accepting={self._admission.accepting}>"
        )

    @property
    def max_concurrent(self) -> int:
        """The most jobs that run at the same time, on all backends together."""
        return self._admission.max_concurrent

    @property
    def in_flight(self) -> int:
        """The number of jobs that run now."""
        return len(self._running)

    @property
    def offered(self) -> Collection[str]:
        """The ids of the models that are offered now."""
        return self._prices.keys()

    @property
    def queued(self) -> int:
        """The number of running jobs that have no byte of their response yet."""
        return sum(1 for job in self._running.values() if not job.channel.stream.written)

    @property
    def running(self) -> Collection[JobExecution]:
        """The running jobs, the oldest first."""
        return self._running.values()

    @property
    def stopping(self) -> bool:
        """Whether a job that was stopped has not ended yet."""
        return any(job.stopping for job in self._running.values())

    def age_s(self, job_id: bytes) -> float:
        """Seconds since a running job arrived; 0 if it does not run."""
        execution = self._running.get(job_id)
        return 0.0 if execution is None else execution.duration_s

    @property
    def accepting(self) -> bool:
        """Whether new jobs are accepted: no drain has begun."""
        return self._admission.accepting

    @property
    def token_limit_wait_s(self) -> float:
        """Seconds until the agent's token limit admits jobs again; 0 if it admits them now."""
        return self._admission.token_limit_wait_s

    def set_limits(self, max_concurrent: int, tokens_per_minute: int | None) -> None:
        """Change the agent's limits; running jobs continue."""
        self._admission.set_limits(max_concurrent, tokens_per_minute)

    def set_prices(self, offers: Iterable[ModelOffer]) -> None:
        """Set the prices that are offered now; a job keeps the price offered when it arrived."""
        self._prices = {
            offer.model_id: OfferedPrice(
                offer.input_price_per_1m, offer.output_price_per_1m, offer.native
            )
            for offer in offers
        }

    def set_accepting(self, *, accepting: bool) -> None:
        """Accept new jobs, or refuse them with `draining`."""
        self._admission.accepting = accepting

    def submit(self, header: JobHeader) -> None:
        """Accept a job, or end it with a refusal; never waits.

        The backend receives an accepted job when its request has arrived completely. A job that is
        submitted twice runs once.

        Raises:
            ProtocolViolation: the coordinator sent more jobs than an agent must keep.
        """
        self.last_job_at = self._clock()
        # Both checks are needed: `_seen` drops its oldest ids, and the outbox drops a job when its
        # end is acknowledged.
        job_id = header.job_id
        if job_id in self._seen or job_id in self._outbox:
            return
        receipts = self._receipts
        hashed = receipts is not None and receipts.hashes
        channel = self._outbox.open(job_id, header.request_bytes, hashed=hashed)
        if receipts is not None and receipts.active:
            channel.issue_receipt = partial(receipts.issue, header)
        self._remember(job_id)
        offered = self._prices.get(header.model_id)
        price = offered or OfferedPrice()
        timeline = JobTimeline(header, self._clock) if self._traced else None
        reason: RefusalReason | None = None
        end: JobError | None = None
        try:
            refusal = self._start(header, channel, price, timeline)
            if refusal is not None:
                reason = refusal.reason
                end = refusal_end(JobReport(job_id, price=price), refusal)
        except Exception:
            # A defect costs this job, not the link of all jobs.
            log.exception("job failed by an internal error", job=job_id.hex())
            report = JobReport(job_id, price=price)
            end = error_end(report, ErrorCode.INTERNAL, INTERNAL_TEXT)
        if end is not None:
            model_id = "" if offered is None else header.model_id
            record = JobRecord(
                header.format,
                "",
                end,
                None,
                0,
                model_id=model_id,
                refusal=reason,
                timeline=timeline,
            )
            self._end(header, channel, record, 0.0)

    def _start(
        self,
        header: JobHeader,
        channel: JobChannel,
        price: OfferedPrice,
        timeline: JobTimeline | None,
    ) -> Refusal | None:
        """Start a job; return why it is refused, or None."""
        route = self._admission.admit(header, self.in_flight, price)
        if isinstance(route, Refusal):
            return route
        self._running[header.job_id] = JobExecution(
            header,
            channel,
            route,
            self._pool,
            self._clock,
            self._execution_ended,
            price,
            self._poison,
            timeline,
        )
        self._idle.clear()
        return None

    def receive_request(self, chunk: RequestChunk) -> None:
        """Add a piece of a job's request; ignore a piece of an unknown or ended job.

        Raises:
            ProtocolViolation: the piece follows a gap, is empty or exceeds the request's size.
        """
        if (execution := self._running.get(chunk.job_id)) is not None:
            execution.receive_request(chunk)

    def cancel(self, job_id: bytes, reason: str) -> None:
        """Stop a running job, or drop the unsent bytes of an ended one; ignore any other job.

        The bytes are dropped so that the end does not wait for a client that has disconnected.
        """
        if (execution := self._running.get(job_id)) is not None:
            execution.stop(StopReason.CANCELLED, reason)
        # If the task has just ended, `stop` ends the job at once and removes it from `_running`.
        if job_id not in self._running and job_id in self._outbox:
            stream = self._outbox.channel(job_id).stream
            if stream.end is not None and stream.unsent:
                self._cut(stream, ErrorCode.CANCELLED, reason)
                log.info("response cancelled", job=job_id.hex(), reason=reason)

    def end_stalled(self, stream: SendStream) -> None:
        """End a job whose consumer has stopped reading; unsent bytes are dropped.

        The job may have ended already, while its response is not yet acknowledged.
        """
        job_id, text = stream.job_id, "the consumer read nothing of the response for too long"
        if (execution := self._running.get(job_id)) is not None:
            execution.stop(StopReason.SLOW_CONSUMER, text)
            return
        # An end that was sent cannot be replaced. Only a defect leaves an ended job without one.
        if stream.end is None or stream.end_sent:
            self._outbox.abandon([job_id])
        else:
            self._cut(stream, ErrorCode.SLOW_CONSUMER, text)
        log.warning("response abandoned", job=job_id.hex(), reason=text)

    def withdraw(self, frame: ResponseFrame) -> None:
        """End a job with `internal`, because a frame of it cannot be sent."""
        job_id = frame.job_id
        if job_id not in self._outbox:
            return
        if (execution := self._running.get(job_id)) is not None:
            execution.stop(StopReason.INTERNAL, INTERNAL_TEXT)
        channel = self._outbox.channel(job_id)
        channel.withdraw(frame)
        # If the task has just ended, `stop` ends the job at once and removes it from `_running`.
        if job_id not in self._running:
            # The new end repeats only length and outcome: another value of the earlier end may be
            # the reason that the frame could not be sent.
            channel.report = JobReport(job_id, channel.stream.written, channel.outcome)
            channel.finish(error_end(channel.report, ErrorCode.INTERNAL, INTERNAL_TEXT))

    def drop_unsent_responses(self, detail: str) -> int:
        """Replace each end that waits behind unsent bytes by `draining`; return their number."""
        cut = 0
        for stream in self._outbox.streams:
            if stream.end is not None and stream.unsent:
                self._cut(stream, ErrorCode.DRAINING, detail)
                cut += 1
        return cut

    def _cut(self, stream: SendStream, code: ErrorCode, text: str) -> None:
        """Drop the unsent bytes and the unsent end of an ended job, and send another end."""
        channel = self._outbox.channel(stream.job_id)
        channel.drop_unsent()
        report = replace(channel.report, total_bytes=stream.written, outcome=channel.outcome)
        channel.finish(error_end(report, code, text))

    def stop_all(self, reason: StopReason, detail: str) -> None:
        """Stop every running job; each ends within `CANCEL_S`."""
        for execution in list(self._running.values()):
            execution.stop(reason, detail)

    async def wait_until_idle(self) -> None:
        """Return when no job runs."""
        await self._idle.wait()

    def _remember(self, job_id: bytes) -> None:
        self._seen[job_id] = None
        if len(self._seen) > REMEMBERED_JOBS:
            self._seen.popitem(last=False)

    def _execution_ended(self, execution: JobExecution, end: JobEnd) -> None:
        job = execution.header
        del self._running[job.job_id]
        if not self._running:
            self._idle.set()
        self._admission.consume(execution.used_tokens)
        first_byte_s = None
        if isinstance(end, JobResult) and end.first_byte_ms is not None:
            first_byte_s = end.first_byte_ms / 1000
        started = execution.channel.stream.started
        record = JobRecord(
            job.format,
            execution.backend_kind,
            end,
            first_byte_s,
            execution.attempts,
            job.model_id,
            started is not None and is_event_stream(started.content_type),
            execution.failover_causes,
            timeline=execution.timeline,
        )
        self._end(job, execution.channel, record, execution.duration_s, execution.log_message)

    def _end(
        self,
        job: JobHeader,
        channel: JobChannel,
        record: JobRecord,
        duration_s: float,
        log_message: str = "",
    ) -> None:
        channel.finish(record.end)
        if channel.sha256 is not None:
            record = replace(record, sha256=channel.sha256)
        self.completed += isinstance(record.end, JobResult)
        try:
            self._on_end(record)
        except Exception:
            log.exception("job not counted", job=job.job_id.hex())
        level = end_level(record.end, record.refusal)
        if log.enabled_for(level):
            at_least = used_tokens(channel.outcome)
            fields = end_fields(
                job,
                record.backend_kind,
                record.end,
                duration_s,
                at_least,
                log_message,
                attempts=record.attempts,
                refusal=record.refusal,
            )
            log.log(level, "job ended", **fields)
