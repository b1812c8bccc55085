"""Why a connection ends, and whether the agent may resume its session."""

from typing import Final

from aiohttp import WSCloseCode
from msgspec import Struct

from provider_agent.protocol.limits import MOVED, REPLACED


class CloseReason(Struct, frozen=True):
    """Why a connection ends.

    Attributes:
        close_code: the close code (RFC 6455, section 7.4).
        reason: text for the close frame and the log, without content of jobs.
        flush: whether queued frames, such as `Rejected`, are sent before the close frame.
        keep_session: whether the session is detached, so that the agent may resume it.
    """

    close_code: int
    reason: str
    flush: bool = False
    keep_session: bool = False


REPLACED_BY_NEWER: Final = CloseReason(REPLACED, "replaced by a newer connection of the same key")

STOPPING: Final = CloseReason(WSCloseCode.GOING_AWAY, "the coordinator is stopping", flush=True)

HANDED_OVER: Final = CloseReason(
    MOVED,
    "the coordinator is stopping; another one continues the jobs",
    flush=True,
    keep_session=True,
)

REJECTED: Final = CloseReason(WSCloseCode.POLICY_VIOLATION, "rejected", flush=True)

_FINAL_CODES: Final = frozenset(
    {
        WSCloseCode.OK,
        WSCloseCode.GOING_AWAY,
        WSCloseCode.PROTOCOL_ERROR,
        WSCloseCode.MESSAGE_TOO_BIG,
    }
)
"""Close codes that end the session: the agent no longer needs it, or the same failure would recur
after a resumption."""


def closed_by_agent(code: int | None, *, is_malformed: bool = False) -> CloseReason:
    """Return the close reason of a connection that the agent closed, or that was lost.

    Args:
        code: the code of the close frame; None if the agent sent none.
        is_malformed: whether the agent's last bytes were not a valid WebSocket message.
    """
    reason = "closed by the agent" if code else "connection lost"
    code = code or WSCloseCode.ABNORMAL_CLOSURE
    keep_session = not is_malformed and code not in _FINAL_CODES
    return CloseReason(code, reason, keep_session=keep_session)


def link_lost(reason: str) -> CloseReason:
    """Return the close reason of a connection that ended without a closing handshake."""
    return CloseReason(WSCloseCode.ABNORMAL_CLOSURE, reason, keep_session=True)
