"""Decodes the events of a response: types, finish reasons, errors and usage.

One Struct serves all formats and operations, because their field names do not collide.
"""

import json
import re
from typing import Final

import msgspec

from provider_agent.adapters.responses.status_codes import code_for_error
from provider_agent.adapters.responses.usage import Counts, decode_usage
from provider_agent.protocol.errors import ErrorCode

_NULL: Final = msgspec.Raw(b"null")

ERROR_TYPES: Final = frozenset({"error", "response.failed"})
"""The types, and event names, of events that report an error."""

RESPONSES_LIFECYCLE: Final = frozenset(
    {"response.created", "response.in_progress", "response.queued"}
)
"""Events of Responses that precede output. vLLM sends the first two before it queues a request."""

RESPONSES_TERMINAL: Final = frozenset(
    {"response.completed", "response.incomplete", "response.done"}
)
"""Events that end a stream of Responses. `response.done` is from OpenAI's Realtime API, and some
gateways use it; its `status` says whether the response failed."""

_FAILED: Final = frozenset({b'"failed"', b'"cancelled"'})
"""The statuses of a Responses object that are failures; `incomplete`, at a limit, is a success."""


MAX_CHOICES: Final = 256
"""Later choices are not decoded: a response has room for millions, which would take a second."""

_BETWEEN_CHOICES: Final = re.compile(r"[\s,]*")


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


class Choice(msgspec.Struct):
    """One choice of chat or completions.

    Attributes:
        index: raw JSON, because only its equality matters.
        finish_reason: None until the choice ends.
    """

    index: msgspec.Raw = msgspec.Raw(b"0")
    finish_reason: str | None = None


class _InnerObject(msgspec.Struct):
    """The `message` (Messages) or `response` (Responses) object inside an event."""

    usage: msgspec.Raw = _NULL
    status: msgspec.Raw = _NULL


class _Delta(msgspec.Struct):
    """The `delta` of a `message_delta` event."""

    stop_reason: str | None = None


_INNER: Final = msgspec.json.Decoder(_InnerObject)
_DELTA: Final = msgspec.json.Decoder(_Delta)
_CHOICE: Final = msgspec.json.Decoder(Choice)
_CHOICES: Final[msgspec.json.Decoder[list[Choice] | None]] = msgspec.json.Decoder(
    list[Choice] | None
)


def _first_choices(raw: bytes) -> list[Choice] | None:
    """Decode up to `MAX_CHOICES` members of a JSON list, or null.

    Raises:
        ValueError: it is something else, or a choice has an unexpected type.
    """
    if raw.count(b"{") <= MAX_CHOICES or not raw.startswith(b"["):
        return _CHOICES.decode(raw)
    text, at, choices = raw.decode("utf-8", "replace"), 1, list[Choice]()
    read_value = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode
    while len(choices) < MAX_CHOICES:
        if (found := _BETWEEN_CHOICES.match(text, at)) is not None:
            at = found.end()
        if text[at] == "]":
            break
        _, end = read_value(text, at)
        choices.append(_CHOICE.decode(text[at:end]))
        at = end
    return choices


class Event(msgspec.Struct):
    """The JSON of one event, or a whole JSON response.

    Fields whose type differs between servers stay raw, so that a malformed token count hides
    neither a finish reason nor an error.
    """

    type: str | None = None
    choices_raw: msgspec.Raw = msgspec.field(name="choices", default=_NULL)
    delta: msgspec.Raw = _NULL
    usage_raw: msgspec.Raw = msgspec.field(name="usage", default=_NULL)
    message: msgspec.Raw = _NULL
    response: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL
    error_type: msgspec.Raw = _NULL
    error_message: msgspec.Raw = _NULL

    @property
    def choices(self) -> list[Choice] | None:
        """The first `MAX_CHOICES` choices; None without any."""
        return None if self.choices_raw is _NULL else _first_choices(bytes(self.choices_raw))

    @property
    def is_error(self) -> bool:
        """Whether the event reports an error."""
        return (
            self.type in ERROR_TYPES
            or any(bytes(f) != b"null" for f in (self.error, self.error_type, self.error_message))
            or any(choice.finish_reason == "error" for choice in self.choices or ())
            or (self.type in RESPONSES_TERMINAL and self._inner_status in _FAILED)
        )

    @property
    def stop_reason(self) -> str | None:
        """The stop reason of a `message_delta`; None without one."""
        try:
            return _DELTA.decode(self.delta).stop_reason
        except ValueError:
            return None

    @property
    def usage(self) -> Counts:
        """The counts of the event's own usage; empty without any."""
        return decode_usage(self.usage_raw)

    @property
    def inner_usage(self) -> Counts:
        """The counts of the `response` or `message` object inside the event."""
        for inner in (self.response, self.message):
            try:
                return decode_usage(_INNER.decode(inner).usage)
            except ValueError:
                continue
        return {}

    @property
    def _inner_status(self) -> bytes:
        try:
            return bytes(_INNER.decode(self.response).status)
        except ValueError:
            return b""


_EVENT: Final = msgspec.json.Decoder(Event)


def decode_event(data: bytes, event_name: bytes = b"") -> Event | None:
    """Decode an `Event`, replacing invalid UTF-8; None if `data` is not a JSON object.

    Also None if `choices`, or a field that is not raw, has an unexpected type. An event
    without a `type` has its name as the type.
    """
    try:
        event = _EVENT.decode(data)
        _ = event.choices  # raises if they have an unexpected type
    except UnicodeDecodeError:
        return decode_event(data.decode("utf-8", "replace").encode(), event_name)
    except (ValueError, RecursionError):
        return None
    if event.type is None and event_name:
        event.type = event_name.decode("latin-1")
    return event


def event_failure(
    event_name: bytes, data: bytes, event: Event | None = None
) -> ResponseFailure | None:
    """Return the failure that an event reports, or None.

    Args:
        event_name: the event's name, or b"".
        data: the event's data, or a whole JSON response.
        event: `data` decoded, if the caller has it already.
    """
    event = event or decode_event(data, event_name)
    reported = event is not None and event.is_error
    if not reported and event_name.decode("latin-1") not in ERROR_TYPES:
        return None
    return ResponseFailure(
        code_for_error(data), "the server reported an error inside its response", data
    )
