"""Exchanges the usage of API keys, so that limits hold over all coordinators. No I/O.

Each coordinator reports only what its own clients used, as totals since its start, so that a lost
report is made up by the next one of the same key, and a repeated one changes nothing. A coordinator
that has no older report of a key counts the usage of the last minute, which the report has too.

Reports are ignored if their sender is not in the view, and entries if their key is not known here.
"""

from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from provider_agent.coordinator.cluster.messages import (
    CoordinatorId,
    MalformedPeerMessage,
    decode_as,
)
from provider_agent.coordinator.cluster.view import MAX_COORDINATORS
from provider_agent.coordinator.key_limits import KEY_ID_BYTES, KeyLimits
from provider_agent.protocol.frames.fields import Count

MAX_KEYS: Final = 1024
"""The most keys of one report, which then has about 50 KiB; further ones are in another report."""

MAX_SENDERS: Final = 2 * MAX_COORDINATORS
"""The most coordinators whose totals are kept, also after they left. If one returns later, what it
used in the last minute counts twice."""

REPORTS_PER_INTERVAL: Final = 4
"""Reports per interval of snapshots, if something was used: a request that the others do not know
of may exceed the limit."""

COMPLETE_REPORTS: Final = 2 * REPORTS_PER_INTERVAL
"""How often a new coordinator receives all keys: it ignores a report that overtakes the snapshot
of its sender, which may take one and a half intervals."""


class KeyUsage(Struct, array_like=True, frozen=True):
    """The fields of `key_limits.OwnUsage`."""

    key: Annotated[bytes, Meta(min_length=KEY_ID_BYTES, max_length=KEY_ID_BYTES)]
    requests: Count
    tokens: Count
    recent_requests: Count
    recent_tokens: Count


class UsageReport(Struct, array_like=True, frozen=True):
    """What clients of one coordinator used.

    Attributes:
        sender: the coordinator.
        keys: the keys that were used since its last report.
    """

    sender: CoordinatorId
    keys: Annotated[list[KeyUsage], Meta(min_length=1, max_length=MAX_KEYS)]


_ENCODER = msgspec.msgpack.Encoder()
_REPORT = msgspec.msgpack.Decoder(UsageReport)


def decode_report(message: bytes) -> UsageReport:
    """Decode a report.

    Raises:
        MalformedPeerMessage: it is invalid or too big.
    """
    report = decode_as(_REPORT, message)
    for usage in report.keys:
        if usage.recent_requests > usage.requests or usage.recent_tokens > usage.tokens:
            raise MalformedPeerMessage("more usage in the last minute than in total")
    return report


class UsageExchange:
    """Reports the usage here to the other coordinators, and counts theirs.

    Args:
        own_id: this coordinator.
        limits: counts the usage.
        members: returns the other coordinators of the view.
    """

    def __init__(
        self, own_id: bytes, limits: KeyLimits, members: Callable[[], AbstractSet[bytes]]
    ) -> None:
        self._own_id = own_id
        self._limits = limits
        self._members = members
        self._complete_reports: dict[bytes, int] = {}
        """Per coordinator of the view: how many reports with all keys it may have received."""
        self._totals: dict[bytes, dict[bytes, KeyUsage]] = {}
        """The last report of each key by coordinator, in the order of their last reports."""

    def __repr__(self) -> str:
        return f"<UsageExchange {self._limits!r} senders={len(self._totals)}>"

    def messages(self) -> list[bytes]:
        """Return the reports to send now: of the keys that were used since the last call.

        While a coordinator is new in the view, they contain all keys that were used in the last
        minute. It ignores them until this coordinator is in its own view.
        """
        reports = {peer: self._complete_reports.get(peer, 0) + 1 for peer in self._members()}
        if any(count <= COMPLETE_REPORTS for count in reports.values()):
            self._limits.report_all()
        self._complete_reports = {
            peer: min(count, COMPLETE_REPORTS + 1) for peer, count in reports.items()
        }
        keys = [KeyUsage(*usage) for usage in self._limits.take_changed()]
        return [
            _ENCODER.encode(UsageReport(self._own_id, keys[first : first + MAX_KEYS]))
            for first in range(0, len(keys), MAX_KEYS)
        ]

    def disconnected(self) -> None:
        """Record that reports may have been lost: the next ones contain all keys again."""
        self._complete_reports = {}

    def receive(self, message: bytes) -> None:
        """Count a report of another coordinator.

        Raises:
            MalformedPeerMessage: the message is invalid.
        """
        report = decode_report(message)
        if report.sender not in self._members():
            return
        totals = self._totals.pop(report.sender, {})
        self._totals[report.sender] = totals  # the latest is forgotten last
        if len(self._totals) > MAX_SENDERS:
            del self._totals[next(iter(self._totals))]
        for usage in report.keys:
            if usage.key in self._limits:
                requests, tokens = _not_counted(usage, totals.get(usage.key))
                totals[usage.key] = usage
                if requests or tokens:
                    self._limits.add_remote(usage.key, requests, tokens)


def _not_counted(usage: KeyUsage, older: KeyUsage | None) -> tuple[int, int]:
    """Return the requests and tokens of the last minute that an older report did not have."""
    if older is None:
        return usage.recent_requests, usage.recent_tokens
    return (
        max(0, min(usage.requests - older.requests, usage.recent_requests)),
        max(0, min(usage.tokens - older.tokens, usage.recent_tokens)),
    )
