"""Counts ended jobs in plain numbers; `JobMetrics` turns them into metrics at each scrape.

Jobs end often and scrapes are rare: the counters of `prometheus_client` would take a lock and five
calls for each of the five series that a job changes.
"""

from bisect import bisect_left
from typing import Final

from msgspec import Struct

FIRST_BYTE_BUCKETS_S: Final = (
    0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4,
)  # fmt: skip
"""Doubling buckets, from a warm small model to the prefill of a very long prompt."""

BUCKET_NAMES: Final = [*map(str, FIRST_BYTE_BUCKETS_S), "+Inf"]


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
            self.first_bytes = [0] * len(BUCKET_NAMES)
        self.first_bytes[bisect_left(FIRST_BYTE_BUCKETS_S, seconds)] += 1
        self.first_byte_sum_s += seconds
