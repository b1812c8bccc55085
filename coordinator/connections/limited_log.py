"""A log for events that any peer can cause, which must not fill the disk."""

from collections.abc import Callable
from typing import Final

from provider_agent.event_log import EventLogger

MAX_LINES: Final = 30
"""The most lines in `PERIOD_S`: enough to see who is refused and why, and 15 MB per day at most."""

PERIOD_S: Final = 60.0

MAX_LOGS: Final = 4096
"""Agents whose lines are counted separately; the one that connected longest ago is forgotten."""


class LimitedLog:
    """Logs at most `MAX_LINES` lines per `PERIOD_S`, and counts the others.

    Args:
        log: writes the lines. `omitted` of a line is how many were omitted before it.
        clock: monotonic, in seconds.
    """

    def __init__(self, log: EventLogger, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._period_ends_at = clock()
        self._lines = 0
        self._omitted = 0

    def __repr__(self) -> str:
        return f"<LimitedLog lines={self._lines} omitted={self._omitted}>"

    def log(self, level: int, event: str, /, **fields: object) -> None:
        """Log an event at a level of the `logging` module, or count it as omitted."""
        now = self._clock()
        if now >= self._period_ends_at:
            self._period_ends_at, self._lines = now + PERIOD_S, 0
        if self._lines >= MAX_LINES:
            self._omitted += 1
            return
        self._lines += 1
        if self._omitted:
            fields["omitted"], self._omitted = self._omitted, 0
        self._log.log(level, event, **fields)


class AgentLogs:
    """One `LimitedLog` for each agent, so that one that reconnects in a loop hides no other.

    Args:
        log: writes the lines.
        clock: monotonic, in seconds.
    """

    def __init__(self, log: EventLogger, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._logs: dict[bytes, LimitedLog] = {}

    def __repr__(self) -> str:
        return f"<AgentLogs agents={len(self._logs)}>"

    def of(self, public_key: bytes) -> LimitedLog:
        """Return the log of the agent with this key."""
        log = self._logs.pop(public_key, None) or LimitedLog(self._log, self._clock)
        self._logs[public_key] = log
        if len(self._logs) > MAX_LOGS:
            del self._logs[next(iter(self._logs))]
        return log
