"""Computes a speed from two counters of a server: processed tokens, and the time they took."""

from typing import Final

MIN_TOKENS: Final = 64
"""The speed is updated only after so many new tokens: with fewer, the fixed costs of a request
dominate."""


class TokenRate:
    """The speed of one request, in tokens per second of its own processing time.

    Both counters are totals over the server's requests, so their ratio is the speed of one request,
    averaged over requests and weighted by their time. Each speed covers the time since the previous
    one; the first speed covers the time since the server's start.
    """

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0
        self._rate: float | None = None

    def update(self, tokens: float | None, seconds: float | None) -> float | None:
        """Return the latest speed; None if it is unknown.

        It is unknown if a counter is None, and until a first speed is measured after the server's
        start.

        Args:
            tokens: the counter of tokens; None if the server does not report it.
            seconds: the counter of processing time; None if the server does not report it.
        """
        if tokens is None or seconds is None:
            return None
        if tokens < self._tokens or seconds < self._seconds:  # the server restarted
            self._tokens = self._seconds = 0.0
            self._rate = None
        new_tokens, new_seconds = tokens - self._tokens, seconds - self._seconds
        if new_tokens >= MIN_TOKENS and new_seconds > 0:
            self._rate = new_tokens / new_seconds
            self._tokens, self._seconds = tokens, seconds
        return self._rate
