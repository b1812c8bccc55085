"""The path of one job's response from its adapter into the outbox."""

from collections.abc import Callable, Mapping

from msgspec.structs import astuple, replace

from provider_agent.adapters.base import FlowControl, ResponseOutcome, Usage
from provider_agent.adapters.responses.validator import is_event_stream
from provider_agent.agent.jobs.ends import JobReport
from provider_agent.protocol.event_stream import ends_between_events
from provider_agent.protocol.field_values import to_line, valid_count
from provider_agent.protocol.frames import JobEnd, JobStarted, LiveJob, Receipt, ResponseFrame
from provider_agent.protocol.request import RequestBuffer
from provider_agent.protocol.response_headers import client_headers, valid_content_type
from provider_agent.protocol.send_stream import SendStream


class JobChannel:
    """One job's channel in the outbox; the `JobSink` that its adapter writes to.

    When the window is full, the channel pauses the source: the `FlowControl` of the backend's
    response. The source resumes when half of the window is free.

    Args:
        stream: holds the response until it is acknowledged.
        mark_ready: called with this channel when its stream may have frames to send.
        request: receives the request body, over this link and later ones.

    Attributes:
        is_queued: whether the outbox will look for frames of this channel; the outbox sets it.
        outcome: what is known about the response; its `between_events` and `error_relayed` cover
            the bytes that were sent or will be sent, and not those that were dropped.
        report: the report of the job's end, set when the job ends. If unsent bytes are dropped
            later, the new end repeats this report with the new length and outcome.
        on_started: called once, when the response starts; None: nothing is called.
        sha256: the hash of the response, set by `finish`; None if the stream is not hashed.
        issue_receipt: returns the receipt of an end, given the hash of the response; called if the
            stream is hashed.
    """

    __slots__ = (
        "_backend_id",
        "_mark_ready",
        "_paused",
        "_source",
        "_stopped",
        "_truncated",
        "is_queued",
        "issue_receipt",
        "on_started",
        "outcome",
        "report",
        "request",
        "sha256",
        "stream",
    )

    def __init__(
        self,
        stream: SendStream,
        mark_ready: Callable[["JobChannel"], None],
        request: RequestBuffer,
    ) -> None:
        self.is_queued = False
        self.stream = stream
        self.request = request
        self.outcome = ResponseOutcome()
        self.report = JobReport(stream.job_id)
        self.sha256: bytes | None = None
        self.on_started: Callable[[], None] | None = None
        self.issue_receipt: Callable[[bytes, Usage], Receipt] | None = None
        self._mark_ready = mark_ready
        self._backend_id = ""
        self._source: FlowControl | None = None
        self._paused = False
        self._stopped = False
        self._truncated = False
        """Whether bytes that the adapter sent were dropped."""

    def __repr__(self) -> str:
        return f"<JobChannel {self.stream!r} backend={self._backend_id!r} paused={self._paused}>"

    def assign(self, backend_id: str) -> None:
        """Set the backend id that the next `JobStarted` carries; called before each attempt."""
        self._backend_id = to_line(backend_id)
        self.outcome = ResponseOutcome()  # an earlier attempt may have reported usage

    def started(
        self, status: int, content_type: str, source: FlowControl, headers: Mapping[str, str]
    ) -> None:
        """Queue the start of the response; see `JobSink.started`.

        Raises:
            ValueError: `status` is not an HTTP status. A frame with it would make the coordinator
                close the link, which all jobs share.
        """
        if not 100 <= status <= 599:
            raise ValueError(f"{status} is not an HTTP status")
        if self._stopped:
            return
        self._source = source
        # Until `response_ended` replaces it, the response counts as cut off inside an event; a
        # defective adapter might never call `response_ended`.
        self.outcome = ResponseOutcome(between_events=False)
        self.stream.start(
            JobStarted(
                job_id=self.stream.job_id,
                status=status,
                content_type=valid_content_type(content_type),
                backend_id=self._backend_id,
                headers=client_headers(headers.items()),
            )
        )
        if self.on_started is not None:
            self.on_started()
        self._mark_ready(self)

    def send_chunk(self, data: bytes) -> None:
        """Queue the next bytes of the response; see `JobSink.send_chunk`.

        Raises:
            RuntimeError: the adapter has not called `started`, and the job has not ended.
            TypeError: `data` is not `bytes`. It would break the message that it is sent in, and
                with it the link, which all jobs share.
        """
        if not isinstance(data, bytes):
            raise TypeError(f"send_chunk needs bytes, not {type(data).__name__}")
        if self._stopped:
            self._truncated = True
            return
        stream = self.stream
        if self._source is None and stream.end is None:
            raise RuntimeError("the adapter sent bytes before it called `started`")
        is_full = stream.write(data)
        if not self.is_queued:
            self._mark_ready(self)
        if is_full and not self._paused and self._source is not None:
            self._paused = True
            self._source.pause_reading()

    def response_ended(self, outcome: ResponseOutcome) -> None:
        """Store the outcome of the response; see `JobSink.response_ended`."""
        counts = astuple(outcome.usage)
        valid = tuple(map(valid_count, counts))
        self.outcome = outcome if valid == counts else replace(outcome, usage=Usage(*valid))
        if self._truncated:
            self.outcome = self._sent_outcome()

    def stop(self) -> None:
        """Drop unsent bytes, also those that the adapter still writes: the end must not wait."""
        self._stopped = True
        self.drop_unsent()

    def drop_unsent(self) -> None:
        """Discard unsent bytes and an unsent end, so that another end can be sent at once."""
        stream = self.stream
        written = stream.written
        stream.drop_unsent()
        if stream.written < written:
            self._truncated = True
            self.outcome = self._sent_outcome()

    def _sent_outcome(self) -> ResponseOutcome:
        """Return what is known about the bytes that were sent, if others were dropped."""
        stream, started = self.stream, self.stream.started
        is_events = started is not None and is_event_stream(started.content_type)
        return replace(
            self.outcome,
            error_relayed=False,
            between_events=not stream.written or (is_events and ends_between_events(stream.tail)),
        )

    def withdraw(self, frame: ResponseFrame) -> None:
        """Forget the end, because `frame` could not be sent; the job then needs another end.

        If `frame` is `JobStarted`, the bytes of the response are dropped too.
        """
        self.stream.withdraw(frame)
        if not self.stream.written:
            self.outcome = replace(self.outcome, error_relayed=False, between_events=True)

    def finish(self, end: JobEnd) -> None:
        """Add the job's end, with its receipt, after the last byte.

        A second end is ignored, unless `drop_unsent` or `withdraw` has removed the first.
        """
        sha256 = self.sha256 = self.stream.sha256()
        if sha256 is not None and self.issue_receipt is not None:
            end = replace(end, receipt=self.issue_receipt(sha256, end.usage))
        self.stream.finish(end)
        self._source = None
        self.on_started = None  # it would keep the ended execution in memory
        self._mark_ready(self)

    def live_job(self) -> LiveJob:
        """Return the offsets from which another link can continue the job."""
        return replace(self.stream.live_job(), request_offset=self.request.received)

    def resume_if_half_free(self) -> None:
        """Resume a paused source if half of the window is free.

        Called after an acknowledgement or a resumption.
        """
        if self._paused and self.stream.below_low_water:
            self._paused = False
            if self._source is not None:
                self._source.resume_reading()
