"""Limits tokens per minute from what servers report. Pure.

A job's tokens are known only when it is over, so the bucket may go below zero: then no job is
admitted until it has refilled. On average the limit holds; one job may overshoot by its own size.
"""

from collections.abc import Callable


class TokenBucket:
    """One limit.

    Args:
        per_minute: tokens that flow in per minute; also the most it holds.
        clock: monotonic, in seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._at = clock()

    def __repr__(self) -> str:
        return f"<TokenBucket {self._level:.0f} of {self._per_minute} per minute>"

    def spend(self, tokens: int) -> None:
        """A job has used so many tokens, input and output together."""
        self._refill()
        self._level -= tokens

    def allow(self, per_minute: int) -> None:
        """From now on another limit; what has been spent is not forgotten."""
        self._refill()
        self._per_minute = per_minute
        self._refill()

    @property
    def wait_s(self) -> float:
        """How long until a job may be admitted; 0: now."""
        self._refill()
        return 0.0 if self._level > 0 else (1 - self._level) * 60.0 / self._per_minute

    def _refill(self) -> None:
        now = self._clock()
        flowed = (now - self._at) * self._per_minute / 60.0
        self._level = min(self._level + flowed, float(self._per_minute))
        self._at = now


def limited(
    bucket: TokenBucket | None, per_minute: int | None, clock: Callable[[], float]
) -> TokenBucket | None:
    """The bucket of a limit that is changed, set for the first time, or lifted (None)."""
    if per_minute is None:
        return None
    if bucket is None:
        return TokenBucket(per_minute, clock)
    bucket.allow(per_minute)
    return bucket
