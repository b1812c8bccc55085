"""What was used in the last minute. No I/O; the time is an argument."""

from collections import deque
from collections.abc import Iterable
from enum import IntEnum
from typing import Final

WINDOW_S: Final = 60.0
"""The time that a limit per minute covers."""

SLOT_S: Final = 1.0
"""What is used within this time is forgotten together, up to this long after `WINDOW_S`."""


class Unit(IntEnum):
    """What a limit counts; the index of its sum in a slot."""

    REQUESTS = 0
    TOKENS = 1


class _Slot:
    """What was used in one second: a sum for each unit."""

    __slots__ = ("expires_at", "used")

    def __init__(self, began_at: float) -> None:
        self.expires_at = began_at + WINDOW_S + SLOT_S
        self.used = [0, 0]


class UsageWindow:
    """Sums of the last minute; its size does not depend on how much was used.

    Attributes:
        used: the sum for each `Unit`; `add` and `expire` bring it up to date.
    """

    __slots__ = ("_began_at", "_slots", "used")

    def __init__(self) -> None:
        self.used = [0, 0]
        self._slots: deque[_Slot] = deque()
        self._began_at = 0.0
        """When the last slot began."""

    def __repr__(self) -> str:
        requests, tokens = self.used
        return f"<UsageWindow requests={requests} tokens={tokens} slots={len(self._slots)}>"

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, now: float, requests: int, tokens: int) -> None:
        """Count what is used now."""
        self.expire(now)
        if not self._slots or now >= self._began_at + SLOT_S:
            self._slots.append(_Slot(now))
            self._began_at = now
        for used in (self._slots[-1].used, self.used):
            used[Unit.REQUESTS] += requests
            used[Unit.TOKENS] += tokens

    def expire(self, now: float) -> None:
        """Forget what is too old to count."""
        while self._slots and self._slots[0].expires_at <= now:
            for unit, used in enumerate(self._slots.popleft().used):
                self.used[unit] -= used

    def releases(self, unit: Unit) -> list[tuple[float, int]]:
        """Return when how much of a unit is forgotten, the oldest first."""
        return [(slot.expires_at, slot.used[unit]) for slot in self._slots]


def below_at(windows: Iterable[UsageWindow], unit: Unit, limit: int) -> float:
    """Return when the sum of several windows will be below a limit that it has reached."""
    used, at = 0, 0.0
    releases: list[tuple[float, int]] = []
    for window in windows:
        used += window.used[unit]
        releases += window.releases(unit)
    for expires_at, released in sorted(releases):
        if used < limit:
            break
        used, at = used - released, expires_at
    return at
