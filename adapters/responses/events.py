"""Parses the events of a response: finish reasons, errors and usage.

One Struct serves all formats and operations, because their field names do not collide.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from provider_agent.adapters.responses.status_codes import code_for_error
from provider_agent.adapters.responses.usage import UsageReport, decode_usage
from provider_agent.protocol.errors import ErrorCode

_NULL: Final = msgspec.Raw(b"null")


class ResponseFailure(msgspec.Struct, frozen=True):
    """Why a response with a success status failed.

    Attributes:
        code: the code of the error registry.
        message: human-readable.
        body: the error that the server sent; b"" without one.
    """

    code: ErrorCode
    message: str
    body: bytes = b""


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _InnerObject(msgspec.Struct):
    """The `message` (Messages) or `response` (Responses) object inside an event."""

    usage: msgspec.Raw = _NULL


class Event(msgspec.Struct):
    """The JSON of one `data:` line, or a whole JSON response.

    Fields whose type differs between servers stay raw, so that a malformed token count hides
    neither a finish reason nor an error.
    """

    type: str | None = None
    choices: list[_Choice] | None = None
    usage_raw: msgspec.Raw = msgspec.field(name="usage", default=_NULL)
    message: msgspec.Raw = _NULL
    response: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL
    error_type: msgspec.Raw = _NULL
    error_message: msgspec.Raw = _NULL

    @property
    def is_error(self) -> bool:
        """Whether the event reports an error."""
        return self.type in ("error", "response.failed") or any(
            bytes(field) != b"null" for field in (self.error, self.error_type, self.error_message)
        )

    @property
    def finish_reason(self) -> str | None:
        """The first finish reason among the choices of chat and completions; None without one."""
        return next((c.finish_reason for c in self.choices or () if c.finish_reason), None)

    @property
    def usage(self) -> UsageReport | None:
        """The event's own usage; None without a valid one."""
        return decode_usage(self.usage_raw)

    @property
    def inner_usage(self) -> UsageReport | None:
        """The usage of the `response` or `message` object inside the event; None without one."""
        for inner in (self.response, self.message):
            try:
                return decode_usage(msgspec.json.decode(inner, type=_InnerObject).usage)
            except ValueError:
                continue
        return None


_EVENT: Final = msgspec.json.Decoder(Event)


def decode_event(data: bytes) -> Event | None:
    """Decode an `Event`, replacing invalid UTF-8; None if `data` is not a JSON object.

    Also None if a field that is not raw, such as `choices`, has an unexpected type.
    """
    try:
        return _EVENT.decode(data)
    except UnicodeDecodeError:
        return decode_event(data.decode("utf-8", "replace").encode())
    except (ValueError, RecursionError):
        return None


def event_failure(
    event_name: bytes, data: bytes, event: Event | None = None
) -> ResponseFailure | None:
    """Return the failure that an event reports, or None.

    Args:
        event_name: the value of the `event:` line, or b"".
        data: the value of the `data:` line, or a whole JSON response.
        event: `data` decoded, if the caller has it already.
    """
    event = event or decode_event(data)
    reported = event is not None and (event.is_error or event.finish_reason == "error")
    if not reported and event_name != b"error":
        return None
    return ResponseFailure(
        code_for_error(data), "the server reported an error inside its response", data
    )


def parse_events(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (event name, data) for each `data:` line; the name is b"" without an `event:` line."""
    name = b""
    for line in data.split(b"\n"):
        field, _, value = line.rstrip(b"\r").partition(b":")
        if field == b"data":
            yield name, value.strip()
        elif field == b"event":
            name = value.strip()
        elif not field and not value:
            name = b""
