"""A token bucket that limits the tokens per minute which servers report. Pure.

A job's tokens are known only when it has ended, so the bucket may go below zero: then no job is
admitted until it has refilled. On average the limit holds; one job may overshoot by its own size.
"""

from collections.abc import Callable


class TokenBucket:
    """A limit of tokens per minute.

    Args:
        per_minute: tokens that are refilled per minute; also the bucket's capacity.
        clock: monotonic, in seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._available = float(per_minute)
        self._refilled_at = clock()

    def __repr__(self) -> str:
        return f"<TokenBucket {self._available:.0f} of {self._per_minute} per minute>"

    def consume(self, tokens: int) -> None:
        """Remove the tokens that a job used, input and output together."""
        self._refill()
        self._available -= tokens

    def set_rate(self, per_minute: int) -> None:
        """Change the limit; tokens already consumed still count."""
        self._refill()
        self._per_minute = per_minute
        self._refill()

    @property
    def wait_s(self) -> float:
        """Seconds until a job may be admitted; 0: now."""
        self._refill()
        return 0.0 if self._available > 0 else (1 - self._available) * 60.0 / self._per_minute

    def _refill(self) -> None:
        now = self._clock()
        refilled = (now - self._refilled_at) * self._per_minute / 60.0
        self._available = min(self._available + refilled, float(self._per_minute))
        self._refilled_at = now


def resize_bucket(
    bucket: TokenBucket | None, per_minute: int | None, clock: Callable[[], float]
) -> TokenBucket | None:
    """The bucket after a limit is set for the first time, changed, or lifted (None)."""
    if per_minute is None:
        return None
    if bucket is None:
        return TokenBucket(per_minute, clock)
    bucket.set_rate(per_minute)
    return bucket
