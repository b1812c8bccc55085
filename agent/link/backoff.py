"""When to dial again after a link ended, or why not to. A pure decision.

Full jitter on every attempt, also at the cap, so that a fleet never reconnects in step. What the
coordinator says about the time wins.

The ceiling of a wait follows from the time already waited, and not from a count of attempts: who
drew short waits must not be the last of a fleet to come back. It stays below the usual
`min(60 s, 1 s * 2^n)` after n attempts, and doubles at most as that does.
"""

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from msgspec import Struct

CAP_S: Final = 60.0
"""The longest an agent waits without being told to."""

FIRST_S: Final = 1.0
"""The most that the first attempt after a healthy session waits."""

SECOND_S: Final = 2.0
"""The least that the ceiling is after that, however little was waited."""

GROWTH: Final = 0.75
"""The ceiling, as a share of the time already waited; measured in docs/performance.md."""

TOLD_MIN_S: Final = 5.0
"""A coordinator that restarts or is overloaded gets at least this much peace."""

REFUSED_S: Final = 60.0
"""After 401 or 403: the operator has to do something first, so there is no hurry."""

TOLD_MAX_S: Final = 3600.0
"""More than an hour is not waited, whatever a coordinator asks: it may be a slip of units."""

HEALTHY_S: Final = 60.0
"""A session that lasted this long shows that dialling works: the waiting begins anew."""


class DisconnectCause(StrEnum):
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
    REPLACED = "replaced"
    """Another connection of the same key took this one's place."""
    BROKEN_PEER = "broken_peer"
    """The coordinator sent what the protocol does not allow."""


class Disconnect(Struct, frozen=True):
    """What happened.

    Attributes:
        end: how it ended.
        detail: for the log and the operator; free of what the peer sent beyond its own reason.
        retry_after_s: what the coordinator asked for.
    """

    end: DisconnectCause
    detail: str
    retry_after_s: float | None = None


class Retry(Struct, frozen=True):
    """Dial again.

    Attributes:
        after_s: how long to wait before the same address.
        waited_s: what to pass the next time.
        elsewhere_s: how long to wait before another address: without what this coordinator asked
            for, but with jitter, because its whole fleet may be on the way there.
    """

    after_s: float
    waited_s: float
    elsewhere_s: float = 0.0


class Fatal(Struct, frozen=True):
    """Do not dial this address again: it would end the same way.

    Attributes:
        hint: what the operator can do.
        elsewhere_s: as in `Retry`.
    """

    hint: str
    elsewhere_s: float = 0.0


_HINTS: Final = {
    DisconnectCause.REJECTED: "check [coordinator] enrollment_code and which key is enrolled "
    "(`provider-agent identity`)",
    DisconnectCause.INCOMPATIBLE: "coordinator and agent do not speak the same protocol "
    "version; check [coordinator] url and update the agent",
    DisconnectCause.REPLACED: "another agent runs with the same key; every agent needs a key "
    "file of its own ([identity] key_path)",
    DisconnectCause.BAD_CERTIFICATE: "check [coordinator] url and, for an authority of your "
    "own, ca_file",
}


def next_attempt(
    cause: Disconnect,
    waited_s: float,
    welcomed_s: float | None,
    random: Callable[[], float],
    *,
    finished_job: bool = False,
) -> Retry | Fatal:
    """Decide what follows the end of a link.

    Args:
        cause: how it ended.
        waited_s: how long the agent has waited, all in all, since the last healthy session.
        welcomed_s: how long the session lasted after `Welcome`; None without one.
        random: uniform in [0, 1).
        finished_job: whether a job ended well in the session, which proves it as time does.
    """
    was_healthy = welcomed_s is not None and (welcomed_s >= HEALTHY_S or finished_job)
    if was_healthy:
        waited_s = 0.0
    ceiling_s = max(SECOND_S, GROWTH * waited_s) if waited_s > 0 else FIRST_S
    pause_s = random() * min(CAP_S, ceiling_s)
    # A peer that spoke this protocol well until now is not another version: a byte was damaged, or
    # a rare frame shows a defect. Neither is worth stopping for good.
    broke_later = cause.end is DisconnectCause.INCOMPATIBLE and was_healthy
    if cause.end in _HINTS and not broke_later:
        return Fatal(_HINTS[cause.end], pause_s)
    told_s = _told_s(cause)
    if cause.end is DisconnectCause.UNAUTHORIZED:
        after_s = max(REFUSED_S * (0.5 + random()), (told_s or 0.0) * (1.0 + random()))
    elif told_s is not None:
        # Jitter on top, so that all who were told the same do not come at the same moment.
        after_s = told_s * (1.0 + random())
    else:
        after_s = pause_s
    return Retry(after_s, waited_s + after_s, pause_s)


def _told_s(cause: Disconnect) -> float | None:
    """What the coordinator asked for, within reason; None: nothing."""
    told_s = cause.retry_after_s
    if told_s is None or math.isnan(told_s):
        return TOLD_MIN_S if cause.end is DisconnectCause.TOLD_TO_WAIT else None
    return min(max(told_s, TOLD_MIN_S), TOLD_MAX_S)
