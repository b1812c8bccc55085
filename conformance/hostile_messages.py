"""Messages that either side may receive from a hostile peer, and the required reaction.

The names are the rows of a table in docs/protocol.md; a test compares the two. The types 99, 100
and above belong to no frame of this version.
"""

import re
from typing import Final

import msgspec
from msgspec import Struct

from provider_agent.protocol.limits import (
    MAX_MESSAGE_TO_AGENT_BYTES,
    MAX_MESSAGE_TO_COORDINATOR_BYTES,
)

JOB_ID: Final = b"\xee" * 16

CANCEL: Final = 5
JOB_STARTED: Final = 36


class HostileMessage(Struct, frozen=True):
    """One hostile message, with a variant for each direction.

    Attributes:
        name: the row of the table.
        to_agent: the variant for an agent to receive.
        to_coordinator: the variant for a coordinator to receive.
        close_code: the receiver's close code; None: the connection stays open.
    """

    name: str
    to_agent: bytes | str
    to_coordinator: bytes | str
    close_code: int | None = 1002

    @property
    def case_id(self) -> str:
        """The id of its conformance case."""
        words = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        return f"message-{re.sub(r'^an?-', '', words)}"


def _encode(*frames: object) -> bytes:
    return msgspec.msgpack.encode(frames)


def _both(name: str, message: bytes | str, close_code: int | None = 1002) -> HostileMessage:
    return HostileMessage(name, message, message, close_code)


_CANCEL = [CANCEL, JOB_ID]
_STARTED = [JOB_STARTED, JOB_ID, 200, "text/plain", "b", []]

HOSTILE_MESSAGES: Final = [
    _both("a text message", "[[5]]"),
    _both("bytes that are not MessagePack", b"\xc1"),  # MessagePack never uses this byte
    _both("a message without frames", b"\x90"),
    _both("a frame without a type", b"\x91\x90"),
    _both("bytes after the array", _encode([99]) + b"\x00"),
    HostileMessage(
        "a field of another type", _encode([CANCEL, "id"]), _encode([JOB_STARTED, "id"])
    ),
    HostileMessage(
        "a field out of its range",
        _encode([CANCEL, JOB_ID[:15]]),
        _encode([JOB_STARTED, JOB_ID, 99, "text/plain", "b"]),
    ),
    HostileMessage("a field missing", _encode([CANCEL]), _encode([JOB_STARTED, JOB_ID])),
    HostileMessage(
        "text that is not UTF-8",  # in `Cancel.reason` and `JobStarted.content_type`
        b"\x91\x93\x05\xc4\x10" + JOB_ID + b"\xa2\xff\xfe",
        b"\x91\x95\x24\xc4\x10" + JOB_ID + b"\xcc\xc8\xa2\xff\xfe\xa0",
    ),
    _both("arrays nested a million deep", b"\x91" * 2**20),
    # [[99, <binary data of 2^32 - 1 bytes>]], cut off before the data
    _both("a length of 4 GiB without data", b"\x91\x92\x63\xc6\xff\xff\xff\xff"),
    _both("more than 16384 frames", _encode(*[[99]] * 16_385)),
    HostileMessage(
        "a message over the limit",
        bytes(MAX_MESSAGE_TO_AGENT_BYTES + 1),
        bytes(MAX_MESSAGE_TO_COORDINATOR_BYTES + 1),
        1009,
    ),
    _both("a frame of an unknown type", _encode([99, {"new": [1, 2]}]), None),
    _both("a thousand frames of unknown types", _encode(*([n] for n in range(100, 1100))), None),
    _both("an unknown frame of a million fields", _encode([99, *[None] * 10**6]), None),
    HostileMessage(
        "fields of a newer version",
        _encode([*_CANCEL, "why", *[None] * 1000]),
        _encode([*_STARTED, [], "new", *[None] * 1000]),
        None,
    ),
    HostileMessage("a frame of the other direction", _encode(_STARTED), _encode(_CANCEL), None),
]
