"""Explains why the coordinator or the WebSocket library ended a connection."""

from typing import Final

from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from provider_agent.agent.link.backoff import Disconnect, DisconnectCause
from provider_agent.agent.link.sanitize import sanitize
from provider_agent.protocol.frames import Drain, Rejected
from provider_agent.protocol.limits import MOVED, REPLACED

_CAUSES: Final = {
    CloseCode.PROTOCOL_ERROR: DisconnectCause.INCOMPATIBLE,
    REPLACED: DisconnectCause.REPLACED,
    CloseCode.SERVICE_RESTART: DisconnectCause.TOLD_TO_WAIT,
    CloseCode.TRY_AGAIN_LATER: DisconnectCause.TOLD_TO_WAIT,
}
"""By close code; any other code is `LOST`."""

_REJECTIONS: Final = {
    "bad_signature": DisconnectCause.BAD_SIGNATURE,
    "key_in_use": DisconnectCause.KEY_IN_USE,
}
"""By code of a `Rejected` without a time; any other code is `REJECTED`."""

_RETRIED_REJECTIONS: Final = {"auth_failed": DisconnectCause.AUTH_FAILED}
"""By code of a `Rejected` with a time; any other code is `TOLD_TO_WAIT`."""

_FATAL: Final = frozenset({DisconnectCause.INCOMPATIBLE, DisconnectCause.REPLACED})
"""Causes that apply even if a `Drain` asked for a wait before the close."""


def explain_close(
    closed: ConnectionClosed, drain: Drain | None, *, restart_is_short: bool = False
) -> Disconnect:
    """Return what a close handshake, or its absence, means for the next dial.

    Args:
        closed: the library's exception.
        drain: the last `Drain` of the coordinator, if any.
        restart_is_short: whether a coordinator that closes with 1012 expects its agents at once.
    """
    retry_after_s = None if drain is None else drain.reconnect_after_ms / 1000 or None
    if closed.sent is not None and not closed.rcvd_then_sent:  # the agent closed first
        if drain is not None and closed.sent.code == CloseCode.NORMAL_CLOSURE:
            detail = f"the coordinator is draining: {sanitize(drain.reason)}"
            return _retry(detail, retry_after_s)
        # The library closed the connection because of a violation. Its reason quotes no content.
        return violation(closed.sent.reason)
    frame = closed.rcvd
    if frame is None:
        return Disconnect(DisconnectCause.LOST, "the connection broke")
    reason = sanitize(frame.reason)
    detail = f"the coordinator closed the connection: {frame.code} {reason}".rstrip()
    cause = _CAUSES.get(frame.code, DisconnectCause.LOST)
    if restart_is_short and frame.code == CloseCode.SERVICE_RESTART:
        cause = DisconnectCause.LOST
    if cause in _FATAL:
        return Disconnect(cause, detail)
    if retry_after_s is not None:
        return _retry(detail, retry_after_s)
    return Disconnect(cause, detail, moved=frame.code == MOVED)


def explain_rejection(rejected: Rejected) -> Disconnect:
    """Return what a `Rejected` means for the next dial: final, unless it names a time."""
    detail = f"rejected by the coordinator: {sanitize(rejected.code)}: {sanitize(rejected.message)}"
    if rejected.retry_after_ms is None:
        return Disconnect(_REJECTIONS.get(rejected.code, DisconnectCause.REJECTED), detail)
    cause = _RETRIED_REJECTIONS.get(rejected.code, DisconnectCause.TOLD_TO_WAIT)
    return Disconnect(cause, detail, rejected.retry_after_ms / 1000)


def violation(reason: str) -> Disconnect:
    """Return the disconnect for a violation of the protocol; `reason` must quote no content."""
    detail = f"the coordinator violated the protocol: {reason}"
    return Disconnect(DisconnectCause.BROKEN_PEER, detail)


def _retry(detail: str, retry_after_s: float | None) -> Disconnect:
    if retry_after_s is None:
        return Disconnect(DisconnectCause.LOST, detail)
    return Disconnect(DisconnectCause.TOLD_TO_WAIT, detail, retry_after_s)
