"""Decides when to dial again after a link ended, or that dialing again is pointless.

Every wait has full jitter, also at the cap, so that a fleet never reconnects in step. A wait that
the coordinator asks for takes precedence.

The ceiling of a wait follows from the time already waited, not from the number of attempts, so that
an agent that drew short waits is not the last of a fleet to reconnect. Without longer waits
(`Disconnect.retry_after_s`, `UNAUTHORIZED_S`), it never exceeds the usual `min(60 s, 1 s * 2^n)`
after n attempts, and at most doubles from one attempt to the next.
"""

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from msgspec import Struct

CAP_S: Final = 60.0
"""The longest wait that the coordinator did not ask for."""

FIRST_CEILING_S: Final = 1.0
"""The ceiling of the first wait after a healthy session."""

MIN_CEILING_S: Final = 2.0
"""The lowest ceiling of every later wait, however short the waits before were."""

GROWTH: Final = 0.75
"""The ceiling as a share of the time already waited; measured in decision 10 (docs/adr)."""

MIN_RETRY_AFTER_S: Final = 5.0
"""The shortest wait before another attempt at a coordinator that is restarting or overloaded."""

MAX_RETRY_AFTER_S: Final = 3600.0
"""The longest wait that a coordinator can ask for; more may be a mistake of units."""

UNAUTHORIZED_S: Final = 60.0
"""The wait after `UNAUTHORIZED`, before jitter: its cause rarely ends within seconds."""

HEALTHY_S: Final = 60.0
"""A session of this length was healthy: the time already waited is reset."""


class DisconnectCause(StrEnum):
    """Why a link, or the attempt to open one, ended."""

    LOST = "lost"
    """The network or the coordinator failed, or did not answer."""
    TOLD_TO_WAIT = "told_to_wait"
    """Close code 1012 or 1013, HTTP 429 or 503, `Rejected` or `Drain` with a time."""
    UNAUTHORIZED = "unauthorized"
    """HTTP 401 or 403, or the client certificate was refused."""
    REJECTED = "rejected"
    """`Rejected` without a time, for another reason than the signature."""
    BAD_SIGNATURE = "bad_signature"
    """`Rejected` without a time: the signature is not for an address of the coordinator."""
    AUTH_FAILED = "auth_failed"
    """A coordinator of the dialect `usepod` does not admit the key."""
    INCOMPATIBLE = "incompatible"
    """Close code 1002."""
    UPGRADE_REFUSED = "upgrade_refused"
    """The TLS handshake failed, or the answer to the upgrade is not a coordinator's: an HTTP
    status other than 101, or 101 without the subprotocol. Often it comes from a proxy."""
    BAD_CERTIFICATE = "bad_certificate"
    """The server's certificate is invalid, or its authority is not trusted."""
    KEY_IN_USE = "key_in_use"
    """`Rejected`: another agent with the same key is connected; this one may not replace it."""
    REPLACED = "replaced"
    """A newer connection with the same key replaced this one."""
    BROKEN_PEER = "broken_peer"
    """The coordinator violated the protocol."""
    INTERNAL = "internal"
    """A defect of the agent."""


class Disconnect(Struct, frozen=True):
    """How a link, or the attempt to open one, ended.

    Attributes:
        cause: decides what follows.
        detail: human-readable; text of the coordinator in it is sanitized.
        retry_after_s: the wait that the coordinator asked for; if None, it did not ask.
        moved: whether the coordinator stops, and another one continues the session.
    """

    cause: DisconnectCause
    detail: str
    retry_after_s: float | None = None
    moved: bool = False


class Retry(Struct, frozen=True):
    """Dial again.

    Attributes:
        after_s: how long to wait before dialing the same address.
        waited_s: the `waited_s` of the next call of `next_attempt`.
        elsewhere_s: how long to wait before dialing another address: without the wait that this
            coordinator asked for, but with jitter, since its whole fleet may be moving there.
    """

    after_s: float
    waited_s: float
    elsewhere_s: float = 0.0


class Fatal(Struct, frozen=True):
    """Do not dial this address again: it would fail in the same way.

    Attributes:
        hint: what the operator can do.
        elsewhere_s: see `Retry`.
    """

    hint: str
    elsewhere_s: float = 0.0


FATAL_HINTS: Final = {
    DisconnectCause.REJECTED: "check [coordinator] enrollment_code and which key is enrolled "
    "(`provider-agent identity`)",
    DisconnectCause.BAD_SIGNATURE: "set [coordinator] url to an address that the coordinator "
    "accepts as its own (the reference coordinator's --authority)",
    DisconnectCause.INCOMPATIBLE: "coordinator and agent have no protocol version in common; "
    "check [coordinator] url and update the agent",
    DisconnectCause.KEY_IN_USE: "stop the other agent, or start this one with "
    "`provider-agent run --replace`; every agent needs a key file of its own ([identity] key_path)",
    DisconnectCause.REPLACED: "another agent runs with the same key; give every agent a key "
    "file of its own ([identity] key_path)",
}
"""What the operator can do about each fatal cause."""

OPERATOR_HINTS: Final = {
    DisconnectCause.AUTH_FAILED: "check which key is enrolled (`provider-agent identity`), that no "
    "other agent runs with it, and [coordinator] enrollment_code, which is sent only as long as "
    "the key file has no provider_id",
    DisconnectCause.BAD_CERTIFICATE: "check [coordinator] url, the clock of this machine and, for "
    "a private certificate authority, ca_file",
    DisconnectCause.UNAUTHORIZED: "check [coordinator] token_file and client_cert_file",
    DisconnectCause.UPGRADE_REFUSED: "check [coordinator] url, and the proxies on the way to it",
}
"""What the operator can do about causes that are retried, because they may end without the
operator: a certificate is renewed, a clock is set, a proxy reaches its server again. A restart of
the process would not change them either, so stopping would only prolong the outage."""


def next_attempt(
    disconnect: Disconnect,
    waited_s: float,
    welcomed_s: float | None,
    random: Callable[[], float],
    *,
    worked: bool = False,
    welcomed_before: bool = False,
    hello_unanswered: bool = False,
) -> Retry | Fatal:
    """Decide whether and when to dial again.

    Args:
        disconnect: how the link ended.
        waited_s: the sum of all waits since the last healthy session.
        welcomed_s: seconds from `Welcome` to the end; if None, no `Welcome` arrived.
        random: uniform in [0, 1).
        worked: the session served a job, as `is_healthy` explains.
        welcomed_before: an earlier link to the same address was welcomed.
        hello_unanswered: this process sent a `Hello` on an earlier connection and received no
            answer. That `Hello` may have arrived late, so that its connection replaced this link.
    """
    if is_healthy(welcomed_s, worked=worked):
        waited_s = 0.0
    ceiling_s = max(MIN_CEILING_S, GROWTH * waited_s) if waited_s > 0 else FIRST_CEILING_S
    jitter_s = random() * min(CAP_S, ceiling_s)
    # From a coordinator that has welcomed this agent, 1002 does not mean another version: a byte
    # was damaged, or a rare frame exposed a defect. Both are worth another attempt.
    same_version = welcomed_before or welcomed_s is not None
    retried = (disconnect.cause is DisconnectCause.INCOMPATIBLE and same_version) or (
        disconnect.cause is DisconnectCause.REPLACED and hello_unanswered
    )
    if disconnect.cause in FATAL_HINTS and not retried:
        return Fatal(FATAL_HINTS[disconnect.cause], jitter_s)
    retry_after_s = _retry_after_s(disconnect)
    if disconnect.cause is DisconnectCause.UNAUTHORIZED:
        wait_s = UNAUTHORIZED_S * (0.5 + random())
        after_s = max(wait_s, (retry_after_s or 0.0) * (1.0 + random()))
    elif retry_after_s is not None:
        # Jitter on top: a fleet that received the same time must not reconnect in step.
        after_s = retry_after_s * (1.0 + random())
    else:
        after_s = jitter_s
    return Retry(after_s, waited_s + after_s, jitter_s)


def is_healthy(welcomed_s: float | None, *, worked: bool) -> bool:
    """Whether a session was healthy: the time already waited is reset after it.

    Args:
        welcomed_s: seconds from `Welcome` to the end; if None, no `Welcome` arrived.
        worked: a job succeeded during the session, or further bytes were acknowledged of a job that
            has run for at least `HEALTHY_S` in total, on this link and earlier ones.
    """
    return welcomed_s is not None and (welcomed_s >= HEALTHY_S or worked)


def _retry_after_s(disconnect: Disconnect) -> float | None:
    """Return the wait that the coordinator asked for, within bounds; None if it did not ask."""
    seconds = disconnect.retry_after_s
    if seconds is None or math.isnan(seconds):
        told_to_wait = disconnect.cause is DisconnectCause.TOLD_TO_WAIT
        return MIN_RETRY_AFTER_S if told_to_wait else None
    return min(max(seconds, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)
