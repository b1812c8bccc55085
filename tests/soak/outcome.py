"""The outcome of one request as its client sees it: pure functions of the response's bytes."""

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from provider_agent.protocol.formats import Operation
from tests.kit.byte_difference import byte_difference
from tests.soak.random_request import RandomRequest


class OutcomeKind(StrEnum):
    """How a request ended."""

    COMPLETE = "complete"
    FAILED = "failed"
    """With one error that the client can read."""
    BROKEN = "broken"
    """The connection broke, so the client knows that the response is incomplete."""
    LEFT = "left"
    """The client disconnected first."""
    WRONG = "wrong"
    """A defect."""


@dataclass(frozen=True)
class Outcome:
    """The result of one request.

    Attributes:
        kind: how the request ended.
        detail: the error code of a failure, the exception of a broken response, or the defect.
    """

    kind: OutcomeKind
    detail: str = ""


def check_response(request: RandomRequest, expected: bytes, status: int, body: bytes) -> Outcome:
    """Check a response that ended as HTTP requires.

    It must be the expected response, or a prefix of that and one error event, or an HTTP error.
    """
    if status != 200:
        code = error_code(body)
        return (
            Outcome(OutcomeKind.FAILED, code)
            if code
            else _wrong(f"HTTP {status} with {body[:200]!r}")
        )
    if body == expected:
        return Outcome(OutcomeKind.COMPLETE)
    before, mark, error = body.rpartition(_error_mark(request.operation))
    if not request.streamed or not mark:
        return _wrong(byte_difference(body, expected))
    event = error.removeprefix(b"data: ") if request.operation is Operation.MESSAGES else error
    code = error_code(_json_of(request.operation, event))
    if not code:
        return _wrong(f"a malformed error: {error[:200]!r}")
    # Up to two bytes before the error, such as line ends, are not compared.
    if not any(expected.startswith(before[: len(before) - n]) for n in range(3)):
        return _wrong(byte_difference(before, expected))
    return Outcome(OutcomeKind.FAILED, code)


def check_partial_response(expected: bytes, status: int, body: bytes) -> Outcome | None:
    """Check what a client received before one side disconnected; None: nothing is wrong."""
    if status in (0, 200) and not expected.startswith(body):
        # The body may end with an error event.
        at = max(body.rfind(b'data: {"error"'), body.rfind(b"event: error"))
        if at < 0 or not expected.startswith(body[:at].rstrip(b"\n")):
            return _wrong(byte_difference(body, expected))
    return None


def error_code(body: bytes) -> str:
    """Return the code, or else the type, of an error in either format; "" if it is no error."""
    try:
        error = msgspec.json.decode(body, type=dict[str, object]).get("error")
    except msgspec.DecodeError:
        return ""
    if not isinstance(error, dict):
        return ""
    return str(error.get("code") or error.get("type") or "")


def _error_mark(operation: Operation) -> bytes:
    """Return the first bytes of the coordinator's error event."""
    return b"event: error\n" if operation is Operation.MESSAGES else b'data: {"error"'


def _json_of(operation: Operation, rest: bytes) -> bytes:
    """Return the JSON of an error event; `rest` follows the mark and, in Messages, `data: `."""
    whole = rest if operation is Operation.MESSAGES else b'{"error"' + rest
    return whole.rstrip(b"\n")


def _wrong(detail: str) -> Outcome:
    return Outcome(OutcomeKind.WRONG, detail)
