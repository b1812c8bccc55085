"""Counts ended jobs in plain numbers; `JobMetrics` turns them into metrics at each scrape.

Jobs end often and scrapes are rare: the counters of `prometheus_client` would take a lock and five
calls for each of the series that a job changes.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

FIRST_BYTE_BUCKETS_S: Final = (
    0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4,
)  # fmt: skip
"""Doubling buckets, from a warm small model to the prefill of a very long prompt."""

DURATION_BUCKETS_S: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0, 300.0, 900.0)
"""From a one-token answer to a long answer of a slow model."""

TOKEN_BUCKETS_S: Final = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
"""From 400 tokens per second to one. Dense around 10 to 50 tokens per second, the speeds at which a
reader notices a difference."""


class Distribution(Struct):
    """How often a value fell into each bucket.

    Attributes:
        bounds: the upper bounds of the buckets, ascending; the last bucket has none.
        counts: the number of values in each bucket, without those of lower buckets.
        total: the sum of the values.
    """

    bounds: Sequence[float]
    counts: list[int]
    total: float = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def merge(self, other: "Distribution") -> None:
        """Add the values of another distribution with the same bounds."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


def new_distribution(bounds: Sequence[float]) -> Distribution:
    """Return a distribution without values."""
    return Distribution(bounds, [0] * (len(bounds) + 1))


class JobTotals(Struct):
    """The totals of the jobs with one outcome, format, backend and model.

    Attributes:
        jobs: their number.
        relayed_bytes: the bytes of their responses.
        input_tokens: as the servers reported them; None: no server reported any.
        output_tokens: the same for output.
        earned: tokens times price, in millionths of a millionth of a US dollar, so that it is a
            whole number; None: no job had tokens and a price.
        first_byte: seconds until the first byte.
        duration: seconds until the end.
        token: for each stream, the mean seconds from one output token to the next.
    """

    jobs: int = 0
    relayed_bytes: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    earned: int | None = None
    first_byte: Distribution | None = None
    duration: Distribution | None = None
    token: Distribution | None = None

    def add_times(
        self, duration_s: float, first_byte_s: float | None, streamed_tokens: int | None
    ) -> None:
        """Count the times of a job that succeeded.

        Args:
            duration_s: seconds from the job's arrival to its end.
            first_byte_s: seconds from its arrival to the first byte; None without one.
            streamed_tokens: the output tokens of an event stream; None if unknown, or if the
                response arrived as a whole.
        """
        if self.duration is None:
            self.duration = new_distribution(DURATION_BUCKETS_S)
        self.duration.add(duration_s)
        if first_byte_s is None:
            return
        if self.first_byte is None:
            self.first_byte = new_distribution(FIRST_BYTE_BUCKETS_S)
        self.first_byte.add(first_byte_s)
        if streamed_tokens is not None and streamed_tokens > 1:
            if self.token is None:
                self.token = new_distribution(TOKEN_BUCKETS_S)
            self.token.add((duration_s - first_byte_s) / (streamed_tokens - 1))


def tokens_times_price(*parts: tuple[int | None, int | None]) -> int | None:
    """Return what tokens earn, in millionths of a millionth of a US dollar: a whole number.

    Cached tokens count like others: offers have no price of their own for them.

    Args:
        parts: for input and output, the number of tokens, and the price in millionths of a dollar
            per million tokens.

    Returns:
        The sum; None if no known number of tokens has a price.
    """
    known = [tokens * price for tokens, price in parts if tokens is not None and price is not None]
    return sum(known) if known else None
