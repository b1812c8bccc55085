"""What came of one request, as its client sees it. Pure."""

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from provider_agent.protocol.formats import Operation
from tests.soak.order import Order


class End(StrEnum):
    """How a request ended."""

    COMPLETE = "complete"
    FAILED = "failed"
    """With one error that the client can see."""
    BROKEN = "broken"
    """The connection broke: the client sees that too."""
    LEFT = "left"
    """The client left first."""
    WRONG = "wrong"
    """What must never be."""


@dataclass(frozen=True)
class Outcome:
    """Of one request.

    Attributes:
        end: how it ended.
        detail: an error's code; what is wrong.
    """

    end: End
    detail: str = ""


def judge(order: Order, expected: bytes, status: int, body: bytes) -> Outcome:
    """A response that ended as HTTP says it should: whole, or with an error, and nothing else."""
    if status != 200:
        code = error_code(order.operation, body)
        return Outcome(End.FAILED, code) if code else _wrong(f"HTTP {status} with {body[:200]!r}")
    if body == expected:
        return Outcome(End.COMPLETE)
    before, mark, error = body.rpartition(_error_mark(order.operation))
    if not order.streamed or not mark:
        return _wrong(_difference(body, expected))
    event = error.removeprefix(b"data: ") if order.operation is Operation.MESSAGES else error
    code = error_code(order.operation, _json_of(order.operation, event))
    if not code:
        return _wrong(f"an error that is none: {error[:200]!r}")
    # A line or an event that was open is closed before the error.
    if not any(expected.startswith(before[: len(before) - n]) for n in range(3)):
        return _wrong(_difference(before, expected))
    return Outcome(End.FAILED, code)


def judge_part(expected: bytes, status: int, body: bytes) -> Outcome | None:
    """What came before the client left or the connection broke; None: nothing is wrong with it."""
    longest = len(body)
    if status in (0, 200) and not expected.startswith(body[:longest]):
        # An error event may already stand at the end of it.
        at = max(body.rfind(b'data: {"error"'), body.rfind(b"event: error"))
        if at < 0 or not expected.startswith(body[:at].rstrip(b"\n")):
            return _wrong(_difference(body, expected))
    return None


def error_code(operation: Operation, body: bytes) -> str:
    """The code in an error of this format, or its type; "" when it is none."""
    try:
        error = msgspec.json.decode(body, type=dict[str, object]).get("error")
    except msgspec.DecodeError:
        return ""
    if not isinstance(error, dict):
        return ""
    return str(error.get("code") or error.get("type") or "")


def _error_mark(operation: Operation) -> bytes:
    return b"event: error\n" if operation is Operation.MESSAGES else b'data: {"error"'


def _json_of(operation: Operation, rest: bytes) -> bytes:
    whole = rest if operation is Operation.MESSAGES else b'{"error"' + rest
    return whole.rstrip(b"\n")


def _wrong(detail: str) -> Outcome:
    return Outcome(End.WRONG, detail)


def _difference(got: bytes, sent: bytes) -> str:
    same = next(
        (at for at, (one, other) in enumerate(zip(got, sent, strict=False)) if one != other),
        min(len(got), len(sent)),
    )
    around = slice(max(0, same - 60), same + 60)
    return (
        f"{len(got)} bytes arrived of {len(sent)}; they differ at {same}: "
        f"{got[around]!r} instead of {sent[around]!r}"
    )
