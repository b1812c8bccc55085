"""Numbers that servers and adapters report, as frames can carry them. Pure.

One impossible number in a frame ends the link, and with it every job.
"""

from typing import Final

MAX_COUNT: Final = 2**53
"""The protocol's biggest number: exact in every language."""


def valid_count(reported: int | None) -> int | None:
    """What was reported; None when nobody can have counted that."""
    return reported if reported is not None and 0 <= reported <= MAX_COUNT else None
