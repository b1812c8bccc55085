"""Counts ended jobs in plain numbers, and turns them into metrics at each scrape.

Jobs end often and scrapes are rare: the counters of `prometheus_client` would take a lock and five
calls for each of the five series that a job changes.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

_FIRST_BYTE_BUCKETS_S: Final = (
    0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4,
)  # fmt: skip
"""Doubling buckets, from a warm small model to the prefill of a very long prompt."""

_BUCKET_NAMES: Final = [*map(str, _FIRST_BYTE_BUCKETS_S), "+Inf"]


class JobTotals(Struct):
    """The totals of the jobs with one outcome, format and kind of backend.

    Attributes:
        created: Unix time of the first of them.
        jobs: their number.
        relayed_bytes: the bytes of their responses.
        failovers: their attempts after the first ones.
        input_tokens: as the servers reported them; None: no server reported any.
        output_tokens: the same for output.
        first_bytes: how many first bytes fell into each bucket; the last has no upper bound.
        first_byte_sum_s: the sum of the times to the first byte.
    """

    created: float
    jobs: int = 0
    relayed_bytes: int = 0
    failovers: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    first_bytes: list[int] = []
    first_byte_sum_s: float = 0.0

    def add_first_byte(self, seconds: float) -> None:
        """Count one time to the first byte."""
        if not self.first_bytes:
            self.first_bytes = [0] * len(_BUCKET_NAMES)
        self.first_bytes[bisect_left(_FIRST_BYTE_BUCKETS_S, seconds)] += 1
        self.first_byte_sum_s += seconds


class JobMetrics(Collector):
    """The totals of all ended jobs; a collector of a Prometheus registry."""

    def __init__(self) -> None:
        self._totals: dict[tuple[str, str, str], JobTotals] = {}

    def totals(self, code: str, wire_format: str, kind: str) -> JobTotals:
        """Return the totals to which a job belongs, by the values of its labels."""
        key = (code, wire_format, kind)
        found = self._totals.get(key)
        if found is None:
            found = self._totals[key] = JobTotals(time.time())
        return found

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
                empty = JobTotals(totals.created, first_bytes=[0] * len(_BUCKET_NAMES))
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
            for bound, count in zip(_BUCKET_NAMES, merged.first_bytes, strict=True):
                reached += count
                buckets.append((bound, reached))
            family.add_metric(series, buckets, merged.first_byte_sum_s)
            created = dict(zip(labels, series, strict=True))
            family.add_sample(f"{name}_created", created, merged.created)
        return family
