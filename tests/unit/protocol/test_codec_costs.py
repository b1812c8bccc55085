"""Decoding a hostile message allocates little memory.

Unknown or malformed content: at most 2 MiB plus a quarter of the message's size. Valid offers: at
most 16 times the message's size.
"""

import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from provider_agent.protocol.codec import VERSION_1, Decoded
from provider_agent.protocol.exceptions import MalformedMessage, ProtocolError
from provider_agent.protocol.frames import Ack
from provider_agent.protocol.limits import (
    MAX_FRAMES_PER_MESSAGE,
    MAX_MESSAGE_TO_AGENT_BYTES,
    MAX_MESSAGE_TO_COORDINATOR_BYTES,
    MIB,
)

JOB_ID = b"\x0b" * 16
NIL = b"\xc0"
# The elements of a frame's array (the type number, then fields) without the header of the array:
# all 4 of `Ack`, the first 7 of `Welcome`.
ACK_FIELDS = b"\x06\xc4\x10" + JOB_ID + b"\x00\xc3"
WELCOME_FIELDS = b"\x02\xa0\xc4\x10" + JOB_ID + b"\x64\x00\xce\x00\x01\x00\x00\xce\x00\x10\x00\x00"
OFFER = msgspec.msgpack.encode(["", [""] * 16, [""] * 64, None, True, "", 0])

Decode = Callable[[bytes], Decoded[Any]]


def array_header(count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big")


def from_coordinator(message: bytes) -> Decoded[Any]:
    return VERSION_1.decode_from_coordinator(message, MAX_MESSAGE_TO_AGENT_BYTES)


def from_agent(message: bytes) -> Decoded[Any]:
    return VERSION_1.decode_from_agent(message, MAX_MESSAGE_TO_COORDINATOR_BYTES)


def allowed_bytes(message: bytes) -> int:
    return 2 * MIB + len(message) // 4


def measure_peak_bytes(decode: Decode, message: bytes) -> int:
    tracemalloc.start()
    try:
        decode(message)
    except ProtocolError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


MANY = MAX_MESSAGE_TO_AGENT_BYTES - 64
"""Number of one-byte elements in a message from the coordinator; 64 bytes are left for the rest."""

MANY_FROM_AGENT = MAX_MESSAGE_TO_COORDINATOR_BYTES - 64


# Unknown fields must be skipped, not decoded: a list of nulls takes 8 bytes of memory for each byte
# of input, a list of other objects about sixty.
@pytest.mark.parametrize(
    ("message", "known_frames"),
    [
        pytest.param(
            b"\x91" + array_header(MANY) + b"\x63" + NIL * (MANY - 1),
            0,
            id="unknown frame",
        ),
        pytest.param(
            b"\x91" + array_header(MANY) + ACK_FIELDS + NIL * (MANY - 4),
            1,
            id="newer fields",
        ),
        pytest.param(
            b"\x92\x91\x63" + array_header(MANY) + ACK_FIELDS + NIL * (MANY - 4),
            1,
            id="newer fields beside an unknown frame",
        ),
        pytest.param(
            b"\x91\x92\x63" + array_header(MANY) + NIL * MANY,
            0,
            id="array in an unknown frame",
        ),
        pytest.param(
            array_header(MAX_FRAMES_PER_MESSAGE) + b"\x91\x63" * MAX_FRAMES_PER_MESSAGE,
            0,
            id="tiny frames",
        ),
    ],
)
def test_ignoring_unknown_frames_and_fields_allocates_little_memory(
    message: bytes, known_frames: int
) -> None:
    assert len(from_coordinator(message).frames) == known_frames
    assert measure_peak_bytes(from_coordinator, message) <= allowed_bytes(message)


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        pytest.param(from_coordinator, array_header(MANY) + NIL * MANY, id="too many frames"),
        pytest.param(
            from_coordinator,
            b"\x91\x98" + WELCOME_FIELDS + array_header(MANY) + NIL * MANY,
            id="too many resumed jobs",
        ),
        pytest.param(from_coordinator, b"\x91" * MANY, id="deep nesting"),
        pytest.param(
            from_agent,
            b"\x91\x93\x22\x01" + array_header(MANY_FROM_AGENT) + NIL * MANY_FROM_AGENT,
            id="too many models",
        ),
    ],
)
def test_refusing_a_malformed_message_allocates_little_memory(
    decode: Decode, message: bytes
) -> None:
    with pytest.raises(MalformedMessage):
        decode(message)
    assert measure_peak_bytes(decode, message) <= allowed_bytes(message)


def test_many_unknown_trailing_fields_are_ignored() -> None:
    message = b"\x91" + array_header(100) + ACK_FIELDS + NIL * 96
    assert from_coordinator(message).frames == [Ack(JOB_ID, 0, final=True)]


def test_decoding_4096_offers_of_empty_strings_allocates_at_most_16_times_their_size() -> None:
    message = b"\x91\x95\x22\x01\xdc\x10\x00" + OFFER * 4096 + b"\x91\x01\x80"
    assert len(from_agent(message).frames[0].models) == 4096
    assert measure_peak_bytes(from_agent, message) <= 16 * len(message)


@pytest.mark.parametrize(
    "header",
    [b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"],
    ids=["array", "map", "bin", "str", "ext"],
)
@pytest.mark.parametrize(
    "prefix", [b"", b"\x91", b"\x91\x94\x22\x01", b"\x91\x94\x25\xc4\x10" + JOB_ID + b"\x00"]
)
def test_a_length_without_data_reserves_no_memory(header: bytes, prefix: bytes) -> None:
    message = prefix + header + b"\xff\xff\xff\xff"
    with pytest.raises(ProtocolError):
        from_agent(message)
    assert measure_peak_bytes(from_agent, message) <= MIB
