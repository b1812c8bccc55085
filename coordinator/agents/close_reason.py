"""Why a connection ends, and whether its session outlives it."""

from typing import Final

from aiohttp import WSCloseCode
from msgspec import Struct

from provider_agent.protocol.limits import REPLACED


class CloseReason(Struct, frozen=True):
    """Why a connection ends.

    Attributes:
        close_code: RFC 6455, 7.4.
        reason: for the close frame and the log, without content.
        flush: whether what waits is still sent: a rejection is, jobs are not.
        keep_session: only the link is lost; the session waits for its agent.
    """

    close_code: int
    reason: str
    flush: bool = False
    keep_session: bool = False


REPLACED_BY_NEWER: Final = CloseReason(REPLACED, "replaced by a newer connection of the same key")

_FINAL_CODES: Final = frozenset(
    {
        WSCloseCode.OK,
        WSCloseCode.GOING_AWAY,
        WSCloseCode.PROTOCOL_ERROR,
        WSCloseCode.MESSAGE_TOO_BIG,
    }
)
"""An agent that closes with one of these is done with its session, or would fail at it again."""


def closed_by_agent(code: int | None, *, is_malformed: bool = False) -> CloseReason:
    """What the end of a connection from the agent's side means.

    Args:
        code: of its close frame; None when there was none.
        is_malformed: the connection ended over bytes that are no WebSocket message.
    """
    code = code or WSCloseCode.ABNORMAL_CLOSURE
    keep_session = not is_malformed and code not in _FINAL_CODES
    return CloseReason(code, "closed by the agent", keep_session=keep_session)


def link_lost(reason: str) -> CloseReason:
    """The link is gone without a word."""
    return CloseReason(WSCloseCode.ABNORMAL_CLOSURE, reason, keep_session=True)
