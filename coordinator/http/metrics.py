"""Prometheus metrics of the coordinator: counters of requests, and gauges read at each scrape.

Label values come from closed sets, so that neither clients nor agents can add series.
"""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final, TypeVar, cast

from msgspec import Struct
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from provider_agent.coordinator.http.client_errors import error_of_reason
from provider_agent.coordinator.http.request_record import DISCONNECTED, OK, RequestRecord
from provider_agent.coordinator.reason import Reason
from provider_agent.log_writer import dropped_lines
from provider_agent.protocol.errors import ErrorCode

MetricT = TypeVar("MetricT", bound=MetricWrapperBase)

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

_CODES: Final = frozenset(
    {OK, DISCONNECTED, *ErrorCode, *(error_of_reason(reason).code for reason in Reason)}
)

_OTHER: Final = "other"

_BUCKETS_S: Final = (
    0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6,
)  # fmt: skip
"""Doubling buckets, up to about the default deadline of a request."""


class Gauges(Struct, frozen=True):
    """The current values, and the totals that other objects count.

    Attributes:
        agents: connected agents.
        models: distinct models that they offer.
        capacity: the jobs that they run at once.
        jobs: jobs without an end.
        detached_sessions: sessions of lost links that can be resumed.
        queued: requests that wait for an agent.
        running_requests: requests that are being handled.
        held_request_bytes: bytes of their bodies.
        connections: open connections.
        unauthenticated_connections: those of peers that have not authenticated.
        evicted_connections: connections closed to make room, since the start.
        refused_connections: connections refused for lack of room, since the start.
        retried_jobs: additional jobs of requests, since the start.
        usepod_agents: connected agents that use the dialect `usepod`.
        cluster_connected: 1 if the other coordinators of the cluster can be reached, else 0.
        cluster_coordinators: other coordinators.
        cluster_agents: agents that are connected to them.
        cluster_sent_jobs: jobs of clients here that run on these agents.
        cluster_received_jobs: jobs of the other coordinators that run on agents here.
    """

    agents: int
    models: int
    capacity: int
    jobs: int
    detached_sessions: int
    queued: int
    running_requests: int
    held_request_bytes: int
    connections: int
    unauthenticated_connections: int
    evicted_connections: int
    refused_connections: int
    retried_jobs: int
    usepod_agents: int = 0
    cluster_connected: int = 0
    cluster_coordinators: int = 0
    cluster_agents: int = 0
    cluster_sent_jobs: int = 0
    cluster_received_jobs: int = 0


_TOTALS: Final = {"evicted_connections", "refused_connections", "retried_jobs"}

_HELP: Final = {
    "agents": "Connected agents.",
    "usepod_agents": "Connected agents that use the dialect usepod.",
    "models": "Distinct models that the agents offer.",
    "capacity": "Jobs that the agents run at once.",
    "jobs": "Jobs without an end.",
    "detached_sessions": "Sessions of lost links that can be resumed.",
    "queued": "Requests that wait for an agent.",
    "running_requests": "Requests that are being handled.",
    "held_request_bytes": "Bytes of request bodies in memory.",
    "connections": "Open connections of clients and agents.",
    "unauthenticated_connections": "Open connections of peers that have not authenticated.",
    "evicted_connections": "Unauthenticated connections closed to make room.",
    "refused_connections": "Connections refused for lack of room.",
    "cluster_connected": "Whether the other coordinators of the cluster can be reached.",
    "cluster_coordinators": "Other coordinators of the cluster.",
    "cluster_agents": "Agents that are connected to other coordinators.",
    "cluster_sent_jobs": "Jobs of clients here that run on agents of other coordinators.",
    "cluster_received_jobs": "Jobs of other coordinators that run on agents here.",
    "retried_jobs": "Jobs that were sent because an earlier one of the same request failed.",
}


class Metrics:
    """The coordinator's metrics, in a registry of their own.

    Args:
        gauges: returns the current values; called once per scrape.
    """

    def __init__(self, gauges: Callable[[], Gauges]) -> None:
        self.registry = CollectorRegistry()
        self._children: dict[tuple[MetricWrapperBase, tuple[str, ...]], MetricWrapperBase] = {}
        self._requests = self._counter(
            "requests", "Requests with a valid key that ended, by outcome.", "operation", "code"
        )
        self._denied = self._counter(
            "denied_requests", "Requests without access, by HTTP status.", "status"
        )
        self._tokens = self._counter("tokens", "Tokens that agents reported.", "direction")
        self._queue = self._histogram(
            "queue", "From a request to its first job, or to its failure."
        )
        self._first_byte = self._histogram("first_byte", "From a request to its first byte.")
        self._duration = self._histogram("request", "From a request to its end.")
        self.registry.register(_GaugeCollector(gauges))
        ProcessCollector(registry=self.registry)

    def __repr__(self) -> str:
        return "<Metrics>"

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(f"coordinator_{name}", documentation, labels, registry=self.registry)

    def _histogram(self, name: str, documentation: str) -> Histogram:
        return Histogram(
            f"coordinator_{name}_seconds",
            documentation,
            ("operation",),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )

    def request_ended(self, record: RequestRecord, ended_at: float) -> None:
        """Count a request that had a valid key."""
        operation = record.operation.value
        code = record.code if record.code in _CODES else _OTHER
        self._child(self._requests, operation, code).inc()
        for histogram, moment in (
            (self._queue, record.queued_until),
            (self._first_byte, record.first_byte_at),
            (self._duration, ended_at),
        ):
            if (seconds := record.seconds_until(moment)) is not None:
                self._child(histogram, operation).observe(seconds)
        for direction, tokens in zip(("input", "output"), record.plausible_tokens, strict=True):
            if tokens is not None:
                self._child(self._tokens, direction).inc(tokens)

    def _child(self, metric: MetricT, *labels: str) -> MetricT:
        """Return `metric.labels(*labels)`, which takes a lock and checks the labels each time."""
        child = self._children.get((metric, labels))
        if child is None:
            child = self._children[metric, labels] = metric.labels(*labels)
        return cast("MetricT", child)

    def access_denied(self, status: int) -> None:
        """Count a request without access; `status` is one of a few that the API returns."""
        self._denied.labels(str(HTTPStatus(status).value)).inc()

    def render(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)


class _GaugeCollector(Collector):
    """Reads the current values at each scrape, so that no gauge can be outdated."""

    def __init__(self, gauges: Callable[[], Gauges]) -> None:
        self._gauges = gauges

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registration does not call `collect` to learn the names."""
        return ()

    def collect(self) -> Iterable[Metric]:
        values = self._gauges()
        for name, documentation in _HELP.items():
            family = CounterMetricFamily if name in _TOTALS else GaugeMetricFamily
            yield family(f"coordinator_{name}", documentation, value=getattr(values, name))
        yield CounterMetricFamily(
            "coordinator_log_lines_dropped",
            "Log lines that did not fit the queue, because the output did not take them.",
            value=dropped_lines(),
        )
