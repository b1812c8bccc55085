"""Slows down guesses of API keys and enrollment codes."""

import ipaddress
from collections.abc import Callable
from typing import Final

FREE_FAILURES: Final = 10
"""Failures of an address before it has to wait: a person who corrects a key needs fewer."""

INTERVAL_S: Final = 6.0
"""Seconds per attempt after `FREE_FAILURES` failures. One failure is forgotten per interval."""

MAX_ADDRESSES: Final = 4096
"""Addresses with failures that are remembered; those of the oldest failures are forgotten first."""

_MAX_ADDRESS_CHARS: Final = 64


class FailedAttempts:
    """How often peers of each address failed to authenticate lately.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # By network: when all its failures so far will be forgotten; ordered by the latest failure.
        self._until: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<FailedAttempts addresses={len(self._until)}>"

    def wait_s(self, address: str) -> float:
        """Return the seconds until peers of an address may try again; 0 if they may now."""
        until = self._until.get(network_of(address), 0.0)
        return max(0.0, until - self._clock() - (FREE_FAILURES - 1) * INTERVAL_S)

    def add(self, address: str) -> None:
        """Count a failure of an address."""
        network = network_of(address)
        until = max(self._clock(), self._until.pop(network, 0.0))
        self._until[network] = until + INTERVAL_S
        if len(self._until) > MAX_ADDRESSES:
            del self._until[next(iter(self._until))]


def network_of(address: str) -> str:
    """Return an IPv4 address, or the /64 network of an IPv6 address: one host can use all of it."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:_MAX_ADDRESS_CHARS]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed.packed[:8] + bytes(8), 64)))
