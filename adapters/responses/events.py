"""What the agent reads of a server's events and answers: usage, ends and errors. Nothing else.

One Struct serves all formats and operations, because their field names do not collide.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from provider_agent.adapters.responses.status_codes import code_for_error
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.limits import MAX_INTEGER

_NULL: Final = msgspec.Raw(b"null")


class Usage(msgspec.Struct, frozen=True):
    """Tokens as the server reported them; None for what it did not report.

    Attributes:
        input_tokens: of the prompt, cached ones included, in both formats alike.
        output_tokens: of the answer.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None


class Failure(msgspec.Struct, frozen=True):
    """Why a response that began as a success is none.

    Attributes:
        code: of the error registry.
        message: for people.
        body: the server's own error, when it sent one.
    """

    code: ErrorCode
    message: str
    body: bytes = b""


class UsageReport(msgspec.Struct):
    """A `usage` object of any format."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens: int | None = None


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Whole(msgspec.Struct):
    """A `message` (Messages) or `response` (Responses) inside an event."""

    usage: msgspec.Raw = _NULL


class Event(msgspec.Struct):
    """A `data:` line, or an answer in one piece.

    What servers fill in different ways stays raw: a count that is none must hide neither an end
    nor an error.
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
        """Whether the server reports an error with it."""
        return self.type in ("error", "response.failed") or any(
            bytes(field) != b"null" for field in (self.error, self.error_type, self.error_message)
        )

    @property
    def finish_reason(self) -> str | None:
        """The first choice's that has one, of chat and completions."""
        return next((c.finish_reason for c in self.choices or () if c.finish_reason), None)

    @property
    def usage(self) -> UsageReport | None:
        """The usage that it reports itself."""
        return _usage_in(self.usage_raw)

    @property
    def inner_usage(self) -> UsageReport | None:
        """The usage of the whole that the event carries."""
        for whole in (self.response, self.message):
            try:
                return _usage_in(msgspec.json.decode(whole, type=_Whole).usage)
            except ValueError:
                continue
        return None


_EVENT: Final = msgspec.json.Decoder(Event)


def decode_event(data: bytes) -> Event | None:
    """The event in a `data:` line; None for anything else. Bytes that are no UTF-8 hide nothing."""
    try:
        return _EVENT.decode(data)
    except UnicodeDecodeError:
        return decode_event(data.decode("utf-8", "replace").encode())
    except (ValueError, RecursionError):
        return None


def _usage_in(raw: msgspec.Raw) -> UsageReport | None:
    """A usage report; None where there is none, or one that cannot be read."""
    try:
        return msgspec.json.decode(raw, type=UsageReport | None)
    except ValueError:
        return None


def event_failure(event_name: bytes, data: bytes, event: Event | None = None) -> Failure | None:
    """The failure that an event reports; None when it reports none.

    Args:
        event_name: of the `event:` line, or b"".
        data: of the `data:` line.
        event: the same, decoded, when the caller has it already.
    """
    event = event or decode_event(data)
    reported = event is not None and (event.is_error or event.finish_reason == "error")
    if not reported and event_name != b"error":
        return None
    return Failure(code_for_error(data), "the server reported an error inside its answer", data)


def events_in(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(event name, data) of each `data:` line; the name is b"" where there is none."""
    name = b""
    for line in data.split(b"\n"):
        field, _, value = line.rstrip(b"\r").partition(b":")
        if field == b"data":
            yield name, value.strip()
        elif field == b"event":
            name = value.strip()
        elif not field and not value:
            name = b""


def merged_usage(*reports: UsageReport | None) -> Usage:
    """One usage from several reports; a later report counts more, field by field."""
    merged: dict[str, int] = {}
    for report in reports:
        if report is not None:
            fields: dict[str, int | None] = msgspec.structs.asdict(report)
            counted = {name: n for name, n in fields.items() if n is not None}
            merged.update({name: n for name, n in counted.items() if 0 <= n <= MAX_INTEGER})
    prompt = merged.get("prompt_tokens")
    if prompt is None and "input_tokens" in merged:
        # Messages counts cached tokens apart, the OpenAI format inside `prompt_tokens`.
        prompt = (
            merged["input_tokens"]
            + merged.get("cache_read_input_tokens", 0)
            + merged.get("cache_creation_input_tokens", 0)
        )
    return Usage(prompt, merged.get("completion_tokens", merged.get("output_tokens")))
