"""When to dial again after a link ended, or why not to. A pure decision.

Full jitter on every attempt, also at the cap, so that a fleet never reconnects in step. What the
coordinator says about the time wins.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Final

from msgspec import Struct

CAP_S: Final = 60.0
"""The longest an agent waits without being told to."""

BASE_S: Final = 1.0
TOLD_MIN_S: Final = 5.0
"""A coordinator that restarts or is overloaded gets at least this much peace."""

REFUSED_S: Final = 60.0
"""After 401 or 403: the operator has to do something first, so there is no hurry."""

HEALTHY_S: Final = 60.0
"""A session that lasted this long shows that dialling works: the attempts count anew."""


class End(StrEnum):
    """How a link, or the attempt at one, ended."""

    LOST = "lost"
    """The network or the coordinator went away, or never answered."""
    TOLD_TO_WAIT = "told_to_wait"
    """Close code 1012 or 1013, HTTP 429 or 503, `Rejected` or `Drain` with a time."""
    UNAUTHORIZED = "unauthorized"
    """HTTP 401 or 403: the token is not (or no longer) good."""
    REJECTED = "rejected"
    """`Rejected` without a time."""
    INCOMPATIBLE = "incompatible"
    """The coordinator closed with 1002, answered 426, or lacks the subprotocol."""
    BAD_CERTIFICATE = "bad_certificate"
    """TLS failed: not the coordinator, or the operator's own authority is missing."""
    BROKEN_PEER = "broken_peer"
    """The coordinator sent what the protocol does not allow."""


class LinkEnd(Struct, frozen=True):
    """What happened.

    Attributes:
        end: how it ended.
        detail: for the log and the operator; free of what the peer sent beyond its own reason.
        retry_after_s: what the coordinator asked for.
    """

    end: End
    detail: str
    retry_after_s: float | None = None


class Retry(Struct, frozen=True):
    """Dial again.

    Attributes:
        after_s: how long to wait first.
        attempt: what to pass the next time.
    """

    after_s: float
    attempt: int


class Fatal(Struct, frozen=True):
    """Do not dial again: it would end the same way.

    Attributes:
        hint: what the operator can do.
    """

    hint: str


_HINTS: Final = {
    End.REJECTED: "check [coordinator] enrollment_code and which key is enrolled "
    "(`provider-agent identity`)",
    End.INCOMPATIBLE: "coordinator and agent do not speak the same protocol version; check "
    "[coordinator] url and update the agent",
    End.BAD_CERTIFICATE: "check [coordinator] url and, for an authority of your own, ca_file",
}


def after(
    what: LinkEnd, attempt: int, welcomed_s: float | None, random: Callable[[], float]
) -> Retry | Fatal:
    """Decide what follows the end of a link.

    Args:
        what: how it ended.
        attempt: how many ends there were since the last healthy session.
        welcomed_s: how long the session lasted after `Welcome`; None without one.
        random: uniform in [0, 1).
    """
    if what.end in _HINTS:
        return Fatal(_HINTS[what.end])
    if welcomed_s is not None and welcomed_s >= HEALTHY_S:
        attempt = 0
    if what.end is End.UNAUTHORIZED:
        return Retry(REFUSED_S * (0.5 + random()), attempt + 1)
    if what.retry_after_s is not None or what.end is End.TOLD_TO_WAIT:
        told = max(what.retry_after_s or 0.0, TOLD_MIN_S)
        # Jitter on top, so that all who were told the same do not come at the same moment.
        return Retry(told * (1.0 + random()), attempt + 1)
    return Retry(random() * min(CAP_S, BASE_S * 2.0 ** min(attempt, 16)), attempt + 1)
