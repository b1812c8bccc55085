"""Messages that either side may get from a hostile peer, and what it has to do about each.

The names are the rows of a table in docs/protocol.md, and a test keeps the two together.
"""

from typing import Final

import msgspec
from msgspec import Struct

JOB_ID: Final = b"\xee" * 16

CANCEL: Final = 5
JOB_STARTED: Final = 36


class Hostile(Struct, frozen=True):
    """One message for each side.

    Attributes:
        name: what is wrong with it.
        to_agent: as a coordinator sends it.
        to_coordinator: as an agent sends it.
        close_code: what the receiver closes the connection with; None: it goes on.
    """

    name: str
    to_agent: bytes | str
    to_coordinator: bytes | str
    close_code: int | None = 1002


def _wire(*frames: object) -> bytes:
    return msgspec.msgpack.encode(frames)


def _both(name: str, message: bytes | str, close_code: int | None = 1002) -> Hostile:
    return Hostile(name, message, message, close_code)


_CANCEL = [CANCEL, JOB_ID]
_STARTED = [JOB_STARTED, JOB_ID, 200, "text/plain", "b"]

HOSTILE_MESSAGES: Final = [
    _both("a text message", "[[5]]"),
    _both("bytes that are not MessagePack", b"GET / HTTP/1.1\r\n\r\n"),
    _both("a message without frames", b"\x90"),
    _both("a frame without a type", b"\x91\x90"),
    _both("bytes after the array", _wire([99]) + b"\x00"),
    Hostile("a field of another type", _wire([CANCEL, "id"]), _wire([JOB_STARTED, "id"])),
    Hostile(
        "a field out of its range",
        _wire([CANCEL, JOB_ID[:15]]),
        _wire([JOB_STARTED, JOB_ID, 99, "text/plain", "b"]),
    ),
    Hostile("a field missing", _wire([CANCEL]), _wire([JOB_STARTED, JOB_ID])),
    Hostile(
        "text that is not UTF-8",
        b"\x91\x93\x05\xc4\x10" + JOB_ID + b"\xa2\xff\xfe",
        b"\x91\x95\x24\xc4\x10" + JOB_ID + b"\xcc\xc8\xa2\xff\xfe\xa0",
    ),
    _both("arrays nested a million deep", b"\x91" * 2**20),
    _both("a length of 4 GiB without data", b"\x91\x92\x63\xc6\xff\xff\xff\xff"),
    _both("more than 16384 frames", _wire(*[[99]] * 16_385)),
    Hostile("a message over the limit", bytes(17 * 2**20), bytes(4 * 2**20 + 1), 1009),
    _both("a frame of an unknown type", _wire([99, {"new": [1, 2]}]), None),
    _both("a thousand frames of unknown types", _wire(*([n] for n in range(100, 1100))), None),
    _both("an unknown frame of a million fields", _wire([99, *[None] * 2**20]), None),
    Hostile(
        "fields of a newer version",
        _wire([*_CANCEL, "why", *[None] * 1000]),
        _wire([*_STARTED, "new", *[None] * 1000]),
        None,
    ),
    Hostile("a frame of the other direction", _wire(_STARTED), _wire(_CANCEL), None),
]
