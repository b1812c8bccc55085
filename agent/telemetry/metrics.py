"""The agent's counters since its start; `metrics_page` shows them to Prometheus.

A job adds its totals once, when it ends; chunks are not counted one by one. Label values come from
closed sets or are bounded in number, so that no peer can increase the number of series.
"""

import time
from collections import Counter, deque
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from msgspec import Struct

from provider_agent.agent.backends.routing import RefusalReason
from provider_agent.agent.jobs.job_record import JobRecord
from provider_agent.agent.link.backoff import DisconnectCause
from provider_agent.agent.telemetry.job_totals import JobTotals, tokens_times_price
from provider_agent.agent.telemetry.loop_lag import LoopLag
from provider_agent.protocol.errors import REGISTRY, ErrorCode
from provider_agent.protocol.formats import WireFormat

OK: Final = "ok"
"""The label `code` of a job that ended with a `JobResult`."""

NO_BACKEND: Final = "none"
"""The labels `kind` and `backend` of a job that reached no backend."""

OTHER: Final = "other"
"""Replaces a label value that is not one of the known values, or one too many."""

MAX_PAIRS: Final = 100
"""The most pairs of backend and model with series of their own. A pair has about fifty series, so
that the page stays below a megabyte; the jobs of further pairs are counted as "other"."""

MAX_REFUSALS: Final = 16
"""The most refusals that are kept for the status."""

MILLION: Final = 1_000_000
"""Prices are per million tokens: tokens times price, divided by it, are millionths of a dollar."""

_FORMATS: Final = frozenset(WireFormat)

_NO_FAILOVER: Final = {
    ErrorCode.DRAINING,
    ErrorCode.FORMAT_NOT_SUPPORTED,
    ErrorCode.INTERNAL,
    ErrorCode.OUT_OF_CAPACITY,
}
"""Retryable codes with which no attempt fails: the agent itself ends a job with them."""

_FAILOVER_CODES: Final = [
    code for code, entry in REGISTRY.items() if entry.retryable and code not in _NO_FAILOVER
]

JobKey = tuple[str, str, str, str, str]
"""Code, format, backend, kind and model: the labels of the totals of ended jobs."""


class ReloadResult(StrEnum):
    """The result of a reload of the configuration."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    FAILED = "failed"


class TraceResult(StrEnum):
    """What became of the trace of a job.

    `EXPORTED`: the collector has accepted it. `FAILED`: it has not. `DROPPED`: the trace did not
    fit the queue, or waited in it when the agent stopped.
    """

    EXPORTED = "exported"
    FAILED = "failed"
    DROPPED = "dropped"


class RefusedJob(Struct, frozen=True):
    """A job that the agent refused.

    Attributes:
        at: when, in seconds of the clock of `Metrics`.
        reason: why.
        model_id: the model; "" if the agent did not offer it.
    """

    at: float
    reason: RefusalReason
    model_id: str


class Metrics:
    """The agent's counters.

    Args:
        clock: monotonic seconds.

    Attributes:
        jobs: the totals of ended jobs.
        refusals: refused jobs, by reason.
        refused: the latest refused jobs, the oldest first.
        failovers: further attempts of jobs, by the error of the failed attempt before.
        reconnects: attempts to reconnect to the coordinator, by cause.
        notices: notices from the coordinator, by severity.
        reloads: reloads of the configuration, by result.
        traces: traces of jobs, by result; 0 if none are exported.
        resumed_jobs: jobs that continued on a new link.
        loop_lag: how late the event loop is.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pairs: set[tuple[str, str]] = set()
        self.jobs: dict[JobKey, JobTotals] = {}
        # A series must exist before its first increase: `rate` and `increase` ignore the first.
        self.refusals: Counter[str] = _zeros(*RefusalReason)
        self.refused: deque[RefusedJob] = deque(maxlen=MAX_REFUSALS)
        self.failovers = _zeros(*_FAILOVER_CODES)
        self.reconnects = _zeros(*DisconnectCause)
        self.notices = _zeros("info", "warning", "error")
        self.reloads = _zeros(*ReloadResult)
        self.traces = _zeros(*TraceResult)
        self.resumed_jobs = 0
        self.loop_lag = LoopLag()

    def __repr__(self) -> str:
        return f"<Metrics jobs={sum(totals.jobs for totals in self.jobs.values())}>"

    def job_ended(self, record: JobRecord, code: ErrorCode | None) -> int | None:
        """Count one ended job; `code` is None for a success.

        Returns:
            What it earned, in millionths of a millionth of a US dollar; None: unknown, or no
            success.
        """
        end = record.end
        earned = None
        backend, model = self._labels(end.backend_id, record.model_id)
        key = (
            OK if code is None else code.value,
            record.wire_format if record.wire_format in _FORMATS else OTHER,
            backend,
            record.backend_kind or NO_BACKEND,
            model,
        )
        totals = self.jobs.get(key)
        if totals is None:
            totals = self.jobs[key] = JobTotals()
        totals.jobs += 1
        totals.relayed_bytes += end.total_bytes
        usage = end.usage
        if usage.input_tokens is not None:
            totals.input_tokens = (totals.input_tokens or 0) + usage.input_tokens
        if usage.output_tokens is not None:
            totals.output_tokens = (totals.output_tokens or 0) + usage.output_tokens
        if code is None:
            earned = tokens_times_price(
                (usage.input_tokens, end.input_price_per_1m),
                (usage.output_tokens, end.output_price_per_1m),
            )
            if earned is not None:
                totals.earned = (totals.earned or 0) + earned
            streamed_tokens = usage.output_tokens if record.streamed else None
            totals.add_times(end.duration_ms / 1000, record.first_byte_s, streamed_tokens)
        if record.failover_causes:
            self.failovers.update(record.failover_causes)
        if record.refusal is not None:
            self.refusals[record.refusal] += 1
            self.refused.append(RefusedJob(self._clock(), record.refusal, record.model_id))
        return earned

    def _labels(self, backend_id: str, model_id: str) -> tuple[str, str]:
        pair = (backend_id or NO_BACKEND, model_id or OTHER)
        if pair not in self._pairs:
            if len(self._pairs) >= MAX_PAIRS:
                return (OTHER, OTHER)
            self._pairs.add(pair)
        return pair

    def reconnecting(self, cause: str) -> None:
        """Count one attempt to reconnect; `cause` comes from a closed set."""
        self.reconnects[cause] += 1

    def notice_received(self, severity: str) -> None:
        """Count one notice of the coordinator; `severity` comes from a closed set."""
        self.notices[severity] += 1

    def reloaded(self, result: ReloadResult) -> None:
        """Count one reload of the configuration."""
        self.reloads[result] += 1

    def resumed(self, jobs: int) -> None:
        """Count jobs that continue on a new link."""
        self.resumed_jobs += jobs


def _zeros(*names: str) -> Counter[str]:
    return Counter(dict.fromkeys(map(str, names), 0))
