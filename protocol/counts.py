"""Checks a number that a server reported before a frame carries it.

A number outside a frame's range is malformed: the peer would close the link and fail every job.
"""

import math

from provider_agent.protocol.limits import MAX_INTEGER


def valid_count(reported: int | None) -> int | None:
    """`reported`, or None when it is negative or over `MAX_INTEGER`."""
    return reported if reported is not None and 0 <= reported <= MAX_INTEGER else None


def valid_share(reported: float | None) -> float | None:
    """`reported`, or None when it is not between 0 and 1."""
    return reported if reported is not None and 0.0 <= reported <= 1.0 else None


def valid_speed(reported: float | None) -> float | None:
    """`reported`, or None when it is not a positive finite number."""
    return reported if reported is not None and 0.0 < reported < math.inf else None
