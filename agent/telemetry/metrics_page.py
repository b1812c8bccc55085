"""The page `/metrics`.

prometheus_client is imported only for it: the import takes as long as that of twenty modules.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from provider_agent.agent.link.coordinator_messages import Routing
from provider_agent.agent.link.state import LinkState
from provider_agent.agent.telemetry.job_metrics import JobMetrics, buckets
from provider_agent.agent.telemetry.loop_lag import LoopLag
from provider_agent.agent.telemetry.metrics import OTHER, Metrics
from provider_agent.agent.telemetry.status import BackendStatus, StatusSnapshot
from provider_agent.log_writer import dropped_lines

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
"""The `Content-Type` of the text that `MetricsPage.render` returns."""

_UNROUTABLE_CODES: Final = ("price", "unknown_model", "quota", "not_verified", "capacity")
"""The codes of unroutable models that the protocol names."""

_BACKEND_GAUGES: Final[Sequence[tuple[str, str, Callable[[BackendStatus], float]]]] = (
    ("up", "1 when the backend is healthy.", lambda backend: backend.healthy),
    (
        "serving",
        "1 when its schedule and no pause let the backend serve.",
        lambda backend: backend.availability.open,
    ),
    ("models", "Models offered.", lambda backend: backend.models),
    ("running", "The agent's jobs on the backend now.", lambda backend: backend.running),
    (
        "queued",
        "Those of them that have no byte of their response yet.",
        lambda backend: backend.queued,
    ),
    ("capacity", "The most of the agent's jobs at once.", lambda backend: backend.capacity),
)


class MetricsPage:
    """The agent's metrics in the Prometheus text format: its counters, and gauges of its status.

    Args:
        metrics: the counters.
        status: returns the current state; called once per scrape, so that no gauge is outdated.
    """

    def __init__(self, metrics: Metrics, status: Callable[[], StatusSnapshot]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(JobMetrics(metrics.jobs))
        self._registry.register(_LinkAndStatus(metrics, status))
        ProcessCollector(registry=self._registry)

    def render(self) -> bytes:
        """Return the page."""
        return generate_latest(self._registry)


class _LinkAndStatus(Collector):
    def __init__(self, metrics: Metrics, status: Callable[[], StatusSnapshot]) -> None:
        self._metrics = metrics
        self._status = status

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registration does not call `collect` to learn the names."""
        return ()

    def collect(self) -> Iterable[Metric]:
        yield _counter(
            "reconnects",
            "Attempts to reconnect to the coordinator, by cause.",
            "cause",
            self._metrics.reconnects,
        )
        yield CounterMetricFamily(
            "provider_agent_resumed_jobs",
            "Jobs that continued on a new link after a lost one.",
            value=self._metrics.resumed_jobs,
        )
        yield _counter(
            "notices",
            "Notices from the coordinator, by severity.",
            "severity",
            self._metrics.notices,
        )
        yield _counter(
            "refusals",
            "Jobs that the agent refused, by reason.",
            "reason",
            self._metrics.refusals,
        )
        yield _counter(
            "failovers",
            "Further attempts of jobs, by the error of the failed attempt before.",
            "cause",
            self._metrics.failovers,
        )
        yield _counter(
            "reloads", "Reloads of the configuration, by result.", "result", self._metrics.reloads
        )
        yield _counter(
            "traces",
            "Traces of jobs, by what became of them; 0 if none are exported.",
            "result",
            self._metrics.traces,
        )
        yield _loop_lag(self._metrics.loop_lag)
        yield from _gauges(self._status())


def _counter(
    name: str, documentation: str, label: str, counts: Mapping[str, int]
) -> CounterMetricFamily:
    counter = CounterMetricFamily(f"provider_agent_{name}", documentation, labels=(label,))
    for value, count in counts.items():
        counter.add_metric((value,), count)
    return counter


def _loop_lag(lag: LoopLag) -> HistogramMetricFamily:
    return HistogramMetricFamily(
        "provider_agent_event_loop_lag_seconds",
        "How late the event loop calls what is due; one sample per second.",
        buckets=buckets(lag.samples),
        sum_value=lag.samples.total,
    )


def _gauges(state: StatusSnapshot) -> Iterable[Metric]:
    yield InfoMetricFamily("provider_agent", "The running agent.", value={"version": state.version})
    yield _gauge("in_flight", "Jobs running now.", state.in_flight)
    yield _gauge("capacity", "Most jobs at once.", state.capacity)
    yield _gauge("draining", "1 while the agent is stopping.", state.draining)
    yield _gauge(
        "serving",
        "1 when its schedule and no pause let the agent serve.",
        state.availability.open,
    )
    yield _gauge(
        "link_up",
        "1 when the coordinator has welcomed the agent.",
        state.link == LinkState.CONNECTED,
    )
    yield _gauge("clock_seconds", "The clock of the agent, in seconds since 1970.", time.time())
    yield CounterMetricFamily(
        "provider_agent_log_lines_dropped",
        "Log lines that did not fit the queue, because the output did not take them.",
        value=dropped_lines(),
    )
    yield CounterMetricFamily(
        "provider_agent_ledger_unwritten_jobs",
        "Ended jobs that were not written to the ledger at once; they wait, or are lost.",
        value=state.ledger.unwritten,
    )
    yield from _backend_gauges(state.backends)
    if state.routing is not None:
        yield _unroutable_models(state.routing)


def _backend_gauges(backends: Sequence[BackendStatus]) -> Iterable[Metric]:
    for name, documentation, value in _BACKEND_GAUGES:
        gauge = GaugeMetricFamily(
            f"provider_agent_backend_{name}", documentation, labels=("backend", "kind")
        )
        for backend in backends:
            gauge.add_metric((backend.id, backend.kind), float(value(backend)))
        yield gauge


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
