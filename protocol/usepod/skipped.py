"""What can be read of a message that is unknown or malformed."""

from typing import Final, get_args

import msgspec
from msgspec import Struct

from provider_agent.protocol.field_values import to_line

BINARY: Final = "binary"
"""The kind of a binary message; the dialect has none."""

_MAX_TYPE_CHARS: Final = 64


class _Head(Struct, frozen=True):
    """Decodes only these fields of a message."""

    type: str
    job_id: msgspec.Raw = msgspec.Raw(b'""')


_DECODER: Final = msgspec.json.Decoder(_Head)
_TEXT_DECODER: Final = msgspec.json.Decoder(str)


class Skipped(Struct, frozen=True):
    """A message that is not processed.

    Attributes:
        kind: what it is, for logs: one line.
        job_id: the job of a malformed message of a known type; "" if it names none.
    """

    kind: str
    job_id: str = ""


def read_skipped(message: str, known_types: frozenset[str]) -> Skipped:
    """Return what a message is that could not be decoded as one of the known types."""
    try:
        head = _DECODER.decode(message)
    except ValueError:
        return Skipped("malformed")
    except RecursionError:
        return Skipped("nested too deeply")
    if head.type not in known_types:
        return Skipped(to_line(head.type, _MAX_TYPE_CHARS))
    try:
        job_id = _TEXT_DECODER.decode(head.job_id)
    except ValueError:
        job_id = ""
    return Skipped(f"malformed {head.type}", job_id)


def types_of(messages: object) -> frozenset[str]:
    """Return the types of the messages in a union of structs."""
    return frozenset(str(one.__struct_config__.tag) for one in get_args(messages))
