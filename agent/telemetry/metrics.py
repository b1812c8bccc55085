"""Prometheus metrics: counters since the start, and gauges read from the status at each scrape.

A job adds its totals once, when it ends; chunks are not counted one by one. Label values come from
closed sets, so that no peer can increase the number of series.
"""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from provider_agent.agent.link.coordinator_messages import Routing
from provider_agent.agent.link.state import LinkState
from provider_agent.agent.telemetry.job_metrics import JobMetrics
from provider_agent.agent.telemetry.status import StatusSnapshot
from provider_agent.log_writer import dropped_lines
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import WireFormat

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
"""The `Content-Type` of the text that `Metrics.render` returns."""

OK: Final = "ok"
"""The label `code` of a job that ended with a `JobResult`."""

NO_BACKEND: Final = "none"
"""The label `kind` of a job that reached no backend."""

OTHER: Final = "other"
"""Replaces a label value that is not one of the known values."""

_UNROUTABLE_CODES: Final = ("price", "unknown_model", "quota", "not_verified", "capacity")
"""The codes of unroutable models that the protocol names."""

_FORMATS: Final = frozenset(WireFormat)


class Metrics:
    """The agent's Prometheus metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._jobs = JobMetrics()
        self.registry.register(self._jobs)
        self._reconnects = self._counter(
            "reconnects", "Attempts to reconnect to the coordinator, by cause.", ("cause",)
        )
        self._resumed = self._counter(
            "resumed_jobs", "Jobs that continued on a new link after a lost one.", ()
        )
        self._notices = self._counter(
            "notices", "Notices from the coordinator, by severity.", ("severity",)
        )
        ProcessCollector(registry=self.registry)

    def __repr__(self) -> str:
        return "<Metrics>"

    def _counter(self, name: str, documentation: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"provider_agent_{name}", documentation, labels, registry=self.registry)

    def job_ended(
        self,
        *,
        code: ErrorCode | None,
        wire_format: str,
        kind: str | None,
        relayed_bytes: int,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        first_byte_s: float | None = None,
        attempts: int = 1,
    ) -> None:
        """Count one ended job.

        Args:
            code: the error code; None for a success.
            wire_format: the job's format; an unknown one counts as "other".
            kind: kind of the backend that ran the job; None if it reached no backend.
            relayed_bytes: size of the response.
            input_tokens: the count that the server reported; None if unknown, then not counted.
            output_tokens: the count that the server reported; None if unknown, then not counted.
            first_byte_s: seconds from the job's arrival to the first byte; None without one.
            attempts: number of attempts at backends.
        """
        format_label = wire_format if wire_format in _FORMATS else OTHER
        kind_label = kind or NO_BACKEND
        totals = self._jobs.totals(OK if code is None else code.value, format_label, kind_label)
        totals.jobs += 1
        totals.relayed_bytes += relayed_bytes
        if attempts > 1:
            totals.failovers += attempts - 1
        if input_tokens is not None:
            totals.input_tokens = (totals.input_tokens or 0) + input_tokens
        if output_tokens is not None:
            totals.output_tokens = (totals.output_tokens or 0) + output_tokens
        if first_byte_s is not None:
            totals.add_first_byte(first_byte_s)

    def reconnecting(self, cause: str) -> None:
        """Count one attempt to reconnect; `cause` comes from a closed set."""
        self._reconnects.labels(cause).inc()

    def notice_received(self, severity: str) -> None:
        """Count one notice of the coordinator; `severity` comes from a closed set."""
        self._notices.labels(severity).inc()

    def resumed(self, jobs: int) -> None:
        """Count jobs that continue on a new link."""
        self._resumed.inc(jobs)

    def watch(self, status: Callable[[], StatusSnapshot]) -> None:
        """Add gauges of the current values; `status` is called once per scrape."""
        self.registry.register(_StatusCollector(status))

    def render(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)


class _StatusCollector(Collector):
    """Turns one status into gauges, so that no gauge can be outdated."""

    def __init__(self, status: Callable[[], StatusSnapshot]) -> None:
        self._status = status

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registration does not call `collect` to learn the names."""
        return ()

    def collect(self) -> Iterable[Metric]:
        state = self._status()
        yield InfoMetricFamily(
            "provider_agent", "The running agent.", value={"version": state.version}
        )
        yield _gauge("in_flight", "Jobs running now.", state.in_flight)
        yield _gauge("capacity", "Most jobs at once.", state.capacity)
        yield _gauge("draining", "1 while the agent is stopping.", state.draining)
        yield _gauge(
            "link_up",
            "1 when the coordinator has welcomed the agent.",
            state.link == LinkState.CONNECTED,
        )
        yield CounterMetricFamily(
            "provider_agent_log_lines_dropped",
            "Log lines that did not fit the queue, because the output did not take them.",
            value=dropped_lines(),
        )
        up = GaugeMetricFamily(
            "provider_agent_backend_up", "1 when the backend receives jobs.", labels=("id", "kind")
        )
        models = GaugeMetricFamily(
            "provider_agent_backend_models", "Models offered.", labels=("id", "kind")
        )
        for backend in state.backends:
            up.add_metric((backend.id, backend.kind), float(backend.healthy))
            models.add_metric((backend.id, backend.kind), float(backend.models))
        yield up
        yield models
        if state.routing is not None:
            yield _unroutable_models(state.routing)


def _unroutable_models(routing: Routing) -> GaugeMetricFamily:
    counts = dict.fromkeys((*_UNROUTABLE_CODES, OTHER), 0)
    for one in routing.unroutable:
        counts[one.code if one.code in _UNROUTABLE_CODES else OTHER] += 1
    counts[OTHER] += routing.unroutable_count - len(routing.unroutable)
    gauge = GaugeMetricFamily(
        "provider_agent_unroutable_models",
        "Offered models that receive no jobs, by reason.",
        labels=("reason",),
    )
    for code, count in counts.items():
        gauge.add_metric((code,), count)
    return gauge


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"provider_agent_{name}", documentation, value=float(value))
