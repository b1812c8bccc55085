"""Prometheus metrics: lifetime counters here, current values read from the status at each scrape.

Nothing is counted per chunk: a job adds its totals once, when it ends. Labels come from closed
sets, so that no peer can grow the number of series.
"""

from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from provider_agent.agent.link.state import LinkState
from provider_agent.agent.telemetry.status import StatusSnapshot
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import WireFormat

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
"""Of what `Metrics.render` returns."""

OK: Final = "ok"
"""The `code` of a job that ended with a `JobResult`."""

NO_BACKEND: Final = "none"
"""The `kind` of a job that reached no backend."""

_FORMATS: Final = frozenset(WireFormat)

_FIRST_BYTE_BUCKETS_S: Final = (
    0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4,
)  # fmt: skip
"""Doubling from a warm small model to the prefill of a very long prompt."""


class Metrics:
    """The agent's counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        job_labels = ("code", "format", "kind")
        self._jobs = self._counter("jobs", "Jobs that ended, by outcome.", job_labels)
        self._bytes = self._counter("relayed_bytes", "Bytes of responses relayed.", job_labels[1:])
        self._tokens = self._counter(
            "tokens", "Tokens as the servers reported them.", ("direction", "kind")
        )
        self._failovers = self._counter(
            "failovers", "Further attempts of jobs that failed before their first byte.", ("kind",)
        )
        self._reconnects = self._counter(
            "reconnects", "Attempts to reconnect to the coordinator, by cause.", ("cause",)
        )
        self._resumed = self._counter(
            "resumed_jobs", "Jobs that went on, on a new link, after theirs was lost.", ()
        )
        self._first_byte = Histogram(
            "provider_agent_first_byte_seconds",
            "From a job's arrival to the first byte of its response.",
            ("format", "kind"),
            buckets=_FIRST_BYTE_BUCKETS_S,
            registry=self.registry,
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
        """Count one job, once.

        Args:
            code: why it failed; None: it did not.
            wire_format: as the job said it; anything unknown counts as "other".
            kind: of the backend that ran it; None: it reached none.
            relayed_bytes: of its response.
            input_tokens: as the server reported them; None: unknown, and not counted.
            output_tokens: the same for the output.
            first_byte_s: from its arrival to the first byte; None: there was none.
            attempts: how many times a backend was asked for it.
        """
        spoken = wire_format if wire_format in _FORMATS else "other"
        backend = kind or NO_BACKEND
        self._jobs.labels(OK if code is None else code.value, spoken, backend).inc()
        self._bytes.labels(spoken, backend).inc(relayed_bytes)
        if attempts > 1:
            self._failovers.labels(backend).inc(attempts - 1)
        if input_tokens is not None:
            self._tokens.labels("input", backend).inc(input_tokens)
        if output_tokens is not None:
            self._tokens.labels("output", backend).inc(output_tokens)
        if first_byte_s is not None:
            self._first_byte.labels(spoken, backend).observe(first_byte_s)

    def reconnecting(self, cause: str) -> None:
        """Count one attempt to reconnect; `cause` comes from a closed set of the link."""
        self._reconnects.labels(cause).inc()

    def resumed(self, jobs: int) -> None:
        """Count jobs that go on, on a new link."""
        self._resumed.inc(jobs)

    def watch(self, status: Callable[[], StatusSnapshot]) -> None:
        """Report current values from `status`, which is called once per scrape."""
        self.registry.register(_StatusCollector(status))

    def render(self) -> bytes:
        """Everything in the Prometheus text format."""
        return generate_latest(self.registry)


class _StatusCollector(Collector):
    """Turns one status into gauges: nothing to keep in step with the truth."""

    def __init__(self, status: Callable[[], StatusSnapshot]) -> None:
        self._status = status

    def describe(self) -> Iterable[Metric]:
        """Empty: the registry need not scrape once only to learn the names."""
        return ()

    def collect(self) -> Iterable[Metric]:
        state = self._status()
        yield InfoMetricFamily(
            "provider_agent", "The running agent.", value={"version": state.version}
        )
        yield _gauge("in_flight", "Jobs running now.", state.in_flight)
        yield _gauge("capacity", "Jobs taken at once.", state.capacity)
        yield _gauge("draining", "1 while the agent is stopping.", state.draining)
        yield _gauge(
            "link_up",
            "1 when the coordinator has welcomed the agent.",
            state.link == LinkState.CONNECTED,
        )
        up = GaugeMetricFamily(
            "provider_agent_backend_up", "1 when the backend gets jobs.", labels=("id", "kind")
        )
        models = GaugeMetricFamily(
            "provider_agent_backend_models", "Models offered.", labels=("id", "kind")
        )
        for backend in state.backends:
            up.add_metric((backend.id, backend.kind), float(backend.healthy))
            models.add_metric((backend.id, backend.kind), float(backend.models))
        yield up
        yield models


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"provider_agent_{name}", documentation, value=float(value))
