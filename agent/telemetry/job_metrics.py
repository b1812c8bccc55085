"""The metrics of ended jobs."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from provider_agent.agent.telemetry.job_totals import Distribution, JobTotals, new_distribution
from provider_agent.agent.telemetry.metrics import MILLION, JobKey

_BACKEND_AND_MODEL = ("backend", "kind", "model")


class JobMetrics(Collector):
    """A collector of a Prometheus registry.

    Args:
        totals: the totals of all ended jobs.
    """

    def __init__(self, totals: Mapping[JobKey, JobTotals]) -> None:
        self._totals = totals

    def describe(self) -> Iterable[Metric]:
        """Return the names, so that another collector cannot have them too."""
        return self.collect()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics with their current values."""
        yield self._counter(
            "jobs",
            "Jobs that ended, by outcome.",
            ("code", "format", *_BACKEND_AND_MODEL),
            lambda key, totals: [(key, totals.jobs)],
        )
        yield self._counter(
            "relayed_bytes",
            "Bytes of responses relayed.",
            ("format", "backend", "kind"),
            lambda key, totals: [(key[1:4], totals.relayed_bytes)],
        )
        yield self._counter(
            "tokens",
            "Tokens as the servers reported them.",
            ("direction", *_BACKEND_AND_MODEL),
            lambda key, totals: [
                (("input", *key[2:]), totals.input_tokens),
                (("output", *key[2:]), totals.output_tokens),
            ],
        )
        yield self._counter(
            "earnings_millionths",
            "Price times tokens of the jobs that succeeded, in millionths of a US dollar. Claimed: "
            "the coordinator has not confirmed it.",
            ("status", "model"),
            lambda key, totals: [(("claimed", key[4]), totals.earned)],
            divisor=MILLION,
        )
        yield self._histogram(
            "first_byte_seconds",
            "From a job's arrival to the first byte of its response, of jobs that succeeded.",
            lambda totals: totals.first_byte,
        )
        yield self._histogram(
            "job_duration_seconds",
            "From a job's arrival to its end, of jobs that succeeded.",
            lambda totals: totals.duration,
        )
        yield self._histogram(
            "token_seconds",
            "The mean time from one output token to the next, one value per streamed response.",
            lambda totals: totals.token,
        )

    def _counter(
        self,
        name: str,
        documentation: str,
        labels: tuple[str, ...],
        values: Callable[[JobKey, JobTotals], Iterable[tuple[tuple[str, ...], int | None]]],
        divisor: int = 1,
    ) -> CounterMetricFamily:
        """Sum up what `values` returns for all totals; None is no value."""
        sums: dict[tuple[str, ...], int] = {}
        for key, totals in self._totals.items():
            for series, value in values(key, totals):
                if value is not None:
                    sums[series] = sums.get(series, 0) + value
        family = CounterMetricFamily(f"provider_agent_{name}", documentation, labels=labels)
        for series, value in sums.items():
            family.add_metric(series, value / divisor)
        return family

    def _histogram(
        self,
        name: str,
        documentation: str,
        distribution: Callable[[JobTotals], Distribution | None],
    ) -> HistogramMetricFamily:
        sums: dict[tuple[str, ...], Distribution] = {}
        for key, totals in self._totals.items():
            if (one := distribution(totals)) is not None:
                sums.setdefault(key[2:], new_distribution(one.bounds)).merge(one)
        family = HistogramMetricFamily(
            f"provider_agent_{name}", documentation, labels=_BACKEND_AND_MODEL
        )
        for series, merged in sums.items():
            family.add_metric(series, buckets(merged), merged.total)
        return family


def buckets(distribution: Distribution) -> list[tuple[str, float]]:
    """Return the cumulative buckets that Prometheus expects."""
    names = [*map(str, distribution.bounds), "+Inf"]
    cumulative, reached = [], 0
    for name, count in zip(names, distribution.counts, strict=True):
        reached += count
        cumulative.append((name, float(reached)))
    return cumulative
