"""Checks the numbers that servers report before a frame carries them.

A number that a frame cannot hold is malformed: the peer closes the link, and every job with it.
"""

from provider_agent.protocol.limits import MAX_INTEGER


def valid_count(reported: int | None) -> int | None:
    """`reported`, or None when it is negative or over `MAX_INTEGER`."""
    return reported if reported is not None and 0 <= reported <= MAX_INTEGER else None
