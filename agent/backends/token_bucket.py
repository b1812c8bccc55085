"""A token bucket that limits the tokens of jobs per minute. No I/O; the clock is an argument.

The tokens of a job are known only when it has ended. The bucket may therefore go below zero; no job
is admitted until it is positive again. Running jobs may exceed the limit for a while, but the
average over time does not.
"""

from collections.abc import Callable


class TokenBucket:
    """A limit of tokens per minute.

    Args:
        per_minute: the tokens that are added per minute; also the bucket's capacity.
        clock: returns monotonic seconds.
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
        """Change the limit. The available tokens stay, but are at most the new limit."""
        self._refill()
        self._per_minute = per_minute
        self._refill()

    @property
    def wait_s(self) -> float:
        """Seconds until a job may be admitted; 0 if one may be admitted now."""
        self._refill()
        # A level of 0 admits no job, so the wait ends when one whole token is available.
        return 0.0 if self._available > 0 else (1 - self._available) * 60.0 / self._per_minute

    def _refill(self) -> None:
        now = self._clock()
        refilled = (now - self._refilled_at) * self._per_minute / 60.0
        self._available = min(self._available + refilled, float(self._per_minute))
        self._refilled_at = now


def resize_bucket(
    bucket: TokenBucket | None, per_minute: int | None, clock: Callable[[], float]
) -> TokenBucket | None:
    """Apply a limit to a bucket.

    Args:
        bucket: the current bucket; None if there is no limit yet.
        per_minute: the new limit; None removes it.
        clock: returns monotonic seconds.

    Returns:
        The bucket to use; None if there is no limit.
    """
    if per_minute is None:
        return None
    if bucket is None:
        return TokenBucket(per_minute, clock)
    bucket.set_rate(per_minute)
    return bucket
