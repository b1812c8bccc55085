"""The metrics of ended jobs."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from provider_agent.agent.telemetry.job_totals import BUCKET_NAMES, JobTotals


class JobMetrics(Collector):
    """A collector of a Prometheus registry.

    Args:
        totals: the totals of all ended jobs, by code, format and kind.
    """

    def __init__(self, totals: Mapping[tuple[str, str, str], JobTotals]) -> None:
        self._totals = totals

    def describe(self) -> Iterable[Metric]:
        """Return the names, so that another collector cannot have them too."""
        return self.collect()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics with their current values."""
        yield self._counter(
            "jobs",
            "Jobs that ended, by outcome.",
            ("code", "format", "kind"),
            lambda key, totals: [(key, totals.jobs)],
        )
        yield self._counter(
            "relayed_bytes",
            "Bytes of responses relayed.",
            ("format", "kind"),
            lambda key, totals: [(key[1:], totals.relayed_bytes)],
        )
        yield self._counter(
            "tokens",
            "Tokens as the servers reported them.",
            ("direction", "kind"),
            lambda key, totals: [
                (("input", key[2]), totals.input_tokens),
                (("output", key[2]), totals.output_tokens),
            ],
        )
        yield self._counter(
            "failovers",
            "Further attempts of jobs, each after a failed attempt.",
            ("kind",),
            lambda key, totals: [(key[2:], totals.failovers or None)],
        )
        yield self._first_bytes()

    def _counter(
        self,
        name: str,
        documentation: str,
        labels: tuple[str, ...],
        values: Callable[
            [tuple[str, ...], JobTotals], Iterable[tuple[tuple[str, ...], int | None]]
        ],
    ) -> CounterMetricFamily:
        """Sum up what `values` returns for all totals; None is no value."""
        sums: dict[tuple[str, ...], tuple[int, float]] = {}
        for key, totals in self._totals.items():
            for series, value in values(key, totals):
                if value is not None:
                    before, created = sums.get(series, (0, totals.created))
                    sums[series] = before + value, min(created, totals.created)
        family = CounterMetricFamily(f"provider_agent_{name}", documentation, labels=labels)
        for series, (value, created) in sums.items():
            family.add_metric(series, value, created)
        return family

    def _first_bytes(self) -> HistogramMetricFamily:
        name, labels = "provider_agent_first_byte_seconds", ("format", "kind")
        sums: dict[tuple[str, str], JobTotals] = {}
        for (_, wire_format, kind), totals in self._totals.items():
            if totals.first_bytes:
                empty = JobTotals(totals.created, first_bytes=[0] * len(BUCKET_NAMES))
                merged = sums.setdefault((wire_format, kind), empty)
                merged.created = min(merged.created, totals.created)
                merged.first_byte_sum_s += totals.first_byte_sum_s
                for bucket, count in enumerate(totals.first_bytes):
                    merged.first_bytes[bucket] += count
        family = HistogramMetricFamily(
            name, "From a job's arrival to the first byte of its response.", labels=labels
        )
        for series, merged in sums.items():
            buckets, reached = [], 0
            for bound, count in zip(BUCKET_NAMES, merged.first_bytes, strict=True):
                reached += count
                buckets.append((bound, reached))
            family.add_metric(series, buckets, merged.first_byte_sum_s)
            created = dict(zip(labels, series, strict=True))
            family.add_sample(f"{name}_created", created, merged.created)
        return family
