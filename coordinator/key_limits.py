"""The limits of requests and tokens per minute of each API key. No I/O.

The window slides: a request that is refused now is accepted when enough of the last minute's usage
is older than a minute. The tokens of a request are known only at its end, so that the requests that
run at once may exceed the limit of tokens; no request is accepted until the sum is below it again.

In a cluster, what the other coordinators report counts from its receipt on.
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from msgspec import Struct

from provider_agent.coordinator.usage_window import Unit, UsageWindow, below_at

KEY_ID_BYTES: Final = 16

ANYONE: Final = bytes(KEY_ID_BYTES)
"""The id under which all clients count together if no API key is required."""


def key_id(digest: bytes) -> bytes:
    """Return the id of an API key from its SHA-256 digest.

    Other coordinators receive the id. It is not a part of the digest itself, which may be in lists
    of the digests of common words.
    """
    return hashlib.sha256(b"provider-agent usage of a key\0" + digest).digest()[:KEY_ID_BYTES]


class LimitReached(NamedTuple):
    """Why a request is refused.

    Attributes:
        unit: what is used up.
        limit: per minute.
        wait_s: seconds until a request is accepted again, if nothing more is used meanwhile.
    """

    unit: Unit
    limit: int
    wait_s: float


class OwnUsage(NamedTuple):
    """What the clients of this coordinator used with one key.

    Attributes:
        key: the id of the key.
        requests: requests since the start of the coordinator.
        tokens: tokens since then.
        recent_requests: the requests of the last minute.
        recent_tokens: the tokens of the last minute.
    """

    key: bytes
    requests: int
    tokens: int
    recent_requests: int
    recent_tokens: int


class _Key(Struct, eq=False):
    """The usage of one key: of the clients here, and as other coordinators reported it."""

    own: UsageWindow
    others: UsageWindow
    requests: int = 0
    tokens: int = 0

    def expire(self, now: float) -> None:
        self.own.expire(now)
        self.others.expire(now)


class KeyLimits:
    """Counts the usage of each API key, and decides whether a key may send one more request.

    Args:
        keys: the ids of all keys; the usage of others is ignored, so that they need no memory.
        max_requests: requests per minute of each key; None for no limit.
        max_tokens: input and output tokens per minute of each key; None for no limit.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        keys: Iterable[bytes],
        *,
        max_requests: int | None,
        max_tokens: int | None,
        clock: Callable[[], float],
    ) -> None:
        limits = {Unit.REQUESTS: max_requests, Unit.TOKENS: max_tokens}
        self._limits = [(unit, limit) for unit, limit in limits.items() if limit is not None]
        self._clock = clock
        self._keys = frozenset(keys)
        self._usage: dict[bytes, _Key] = {}
        self._changed: set[bytes] = set()

    def __repr__(self) -> str:
        return f"<KeyLimits {self._limits} keys={len(self._keys)} used={len(self._usage)}>"

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def _of(self, key: bytes) -> _Key | None:
        usage = self._usage.get(key)
        if usage is None and key in self._keys:
            usage = self._usage[key] = _Key(UsageWindow(), UsageWindow())
        return usage

    def used(self, key: bytes, unit: Unit) -> int:
        """Return what was used in the last minute, also at other coordinators."""
        usage = self._usage.get(key)
        if usage is None:
            return 0
        usage.expire(self._clock())
        return usage.own.used[unit] + usage.others.used[unit]

    def accept(self, key: bytes) -> LimitReached | None:
        """Count a request; return why it is refused if a limit is reached. Others do not count."""
        usage = self._of(key)
        if usage is None:
            return None
        now = self._clock()
        usage.expire(now)
        reached = [
            LimitReached(unit, limit, below_at((usage.own, usage.others), unit, limit) - now)
            for unit, limit in self._limits
            if usage.own.used[unit] + usage.others.used[unit] >= limit
        ]
        if reached:
            return max(reached, key=lambda one: one.wait_s)
        self._add(key, usage, 1, 0)
        return None

    def add_tokens(self, key: bytes, tokens: int) -> None:
        """Count the tokens of a request that has ended."""
        usage = self._of(key)
        if usage is not None and tokens:
            self._add(key, usage, 0, tokens)

    def _add(self, key: bytes, usage: _Key, requests: int, tokens: int) -> None:
        usage.own.add(self._clock(), requests, tokens)
        usage.requests += requests
        usage.tokens += tokens
        self._changed.add(key)

    # --- the other coordinators -------------------------------------------------------------------

    def add_remote(self, key: bytes, requests: int, tokens: int) -> None:
        """Count what clients of another coordinator used."""
        usage = self._of(key)
        if usage is not None:
            usage.others.add(self._clock(), requests, tokens)

    def take_changed(self) -> list[OwnUsage]:
        """Return the usage of the keys that were used here since the last call."""
        now, changed = self._clock(), []
        for key in self._changed:
            usage = self._usage[key]
            usage.own.expire(now)
            recent_requests, recent_tokens = usage.own.used
            changed.append(
                OwnUsage(key, usage.requests, usage.tokens, recent_requests, recent_tokens)
            )
        self._changed = set()
        return changed

    def report_all(self) -> None:
        """Let the next `take_changed` return every key that was used in the last minute."""
        now = self._clock()
        for key, usage in self._usage.items():
            usage.own.expire(now)
            if len(usage.own):
                self._changed.add(key)
