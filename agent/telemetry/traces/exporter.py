"""The thread that exports the traces of ended jobs.

The event loop only appends an ended job to a bounded queue; the thread builds the spans, and waits
for the collector. If the collector is slow or dead, the queue fills and further traces are dropped
and counted: jobs never wait.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol
from urllib.parse import urlsplit

from provider_agent.agent.jobs.job_record import JobRecord
from provider_agent.agent.telemetry.metrics import TraceResult
from provider_agent.agent.telemetry.traces.job_spans import JobSpan, job_spans
from provider_agent.agent.telemetry.traces.settings import TraceSettings
from provider_agent.event_log import EventLogger
from provider_agent.protocol.field_values import to_line

log = EventLogger(__name__)

_ADVICE: Final = (
    "jobs continue; check the collector, its port for HTTP (usually 4318) in "
    "OTEL_EXPORTER_OTLP_ENDPOINT, and OTEL_EXPORTER_OTLP_HEADERS"
)

Trace = tuple[str, Sequence[JobSpan]]
"""A `traceparent`, which may be invalid, and the spans of a job."""


class SpanSender(Protocol):
    """Sends traces to a collector; used by one thread, apart from `close`."""

    def send(self, traces: Sequence[Trace]) -> str:
        """Send traces; return "" or why the collector did not accept them."""

    def close(self) -> None:
        """Give up the request that waits for the collector; may be called in any thread."""


class TraceExporter:
    """Exports the traces of ended jobs.

    Args:
        settings: how to export.
        new_sender: connects to the collector; called in the thread, because it imports a lot.
        counts: counts traces by result.
    """

    def __init__(
        self,
        settings: TraceSettings,
        new_sender: Callable[[], SpanSender],
        counts: Counter[str],
    ) -> None:
        self._settings = settings
        self._new_sender = new_sender
        self._counts = counts
        self._queue: deque[JobRecord] = deque()
        self._room = settings.max_queue
        self._wake = threading.Event()
        self._stopping = False
        self._sender: SpanSender | None = None
        self._lost = 0
        """Traces that were not accepted since the last one that was."""
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)

    def __repr__(self) -> str:
        return f"<TraceExporter {self.endpoint} queued={len(self._queue)}>"

    @property
    def endpoint(self) -> str:
        """The collector's address without credentials."""
        parts = urlsplit(self._settings.endpoint)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, record: JobRecord) -> None:
        """Queue the trace of an ended job, or drop it if the queue is full; never waits."""
        if len(self._queue) >= self._room:
            self._counts[TraceResult.DROPPED] += 1
            return
        self._queue.append(record)
        if len(self._queue) * 2 >= self._room and not self._wake.is_set():
            self._wake.set()

    def stop(self) -> None:
        """Export what is queued, for at most `settings.flush_s` seconds; drop the rest. Blocks."""
        self._stopping = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(self._settings.flush_s)
        if left := self._drop_queued():
            log.warning("traces dropped", count=left, reason="the agent stopped")
        if self._sender is not None and self._thread.is_alive():
            self._sender.close()  # the thread gives up; it does not keep the process alive

    def _run(self) -> None:
        try:
            self._sender = sender = self._new_sender()
        except Exception as error:  # noqa: BLE001 - a wrong variable must not stop the agent
            self._room = 0
            self._drop_queued()
            log.error(
                "traces off",
                reason=to_line(str(error)) or type(error).__name__,
                what_to_do="correct the OTEL_… environment variables and start the agent again",
            )
            return
        stopping = False
        while not stopping:
            if not self._stopping:
                self._wake.wait(self._settings.schedule_delay_s)
            self._wake.clear()
            stopping = self._stopping  # read first: what is queued before a stop is exported
            while self._queue:
                self._send_batch(sender)
        sender.close()

    def _drop_queued(self) -> int:
        """Drop and count what is queued; return its number."""
        if left := len(self._queue):
            self._queue.clear()
            self._counts[TraceResult.DROPPED] += left
        return left

    def _next(self) -> JobRecord | None:
        try:
            return self._queue.popleft()
        except IndexError:  # `stop` may have dropped the last one
            return None

    def _send_batch(self, sender: SpanSender) -> None:
        traces: list[Trace] = []
        spans = 0
        while spans < self._settings.max_batch and (record := self._next()) is not None:
            if record.timeline is not None:
                built = job_spans(record, record.timeline)
                traces.append((record.timeline.header.traceparent, built))
                spans += len(built)
        try:
            problem = sender.send(traces)
        except Exception:
            log.exception("traces failed")
            problem = "an internal error"
        self._counts[TraceResult.FAILED if problem else TraceResult.EXPORTED] += len(traces)
        self._report(problem, len(traces))

    def _report(self, problem: str, traces: int) -> None:
        """Log the first failure, and the end of the failures: not each of them."""
        if problem:
            if not self._lost:
                log.warning(
                    "traces not exported",
                    endpoint=self.endpoint,
                    reason=problem,
                    what_to_do=_ADVICE,
                )
            self._lost += traces
        elif self._lost:
            log.info("traces exported again", endpoint=self.endpoint, lost=self._lost)
            self._lost = 0


def otlp_exporter(settings: TraceSettings, counts: Counter[str], instance_id: str) -> TraceExporter:
    """Return an exporter by OTLP, which has not started.

    Args:
        settings: how to export.
        counts: counts traces by result.
        instance_id: identifies this agent among others.
    """

    def new_sender() -> SpanSender:
        from provider_agent.agent.telemetry.traces.otlp import OtlpSender
        from provider_agent.agent.version import agent_version

        return OtlpSender(
            {
                "service.name": "provider-agent",
                "service.version": agent_version(),
                "service.instance.id": instance_id,
            }
        )

    return TraceExporter(settings, new_sender, counts)
