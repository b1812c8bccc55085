"""What a hostile message costs its reader: never much more memory than the message itself."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from provider_agent.protocol.codec import VERSION_1, Decoded
from provider_agent.protocol.exceptions import ProtocolError
from provider_agent.protocol.frames import Ack
from provider_agent.protocol.limits import (
    MAX_FRAMES_PER_MESSAGE,
    MAX_MESSAGE_TO_AGENT_BYTES,
    MAX_MESSAGE_TO_COORDINATOR_BYTES,
    MIB,
)

JOB_ID = b"\x0b" * 16
NIL = b"\xc0"
ACK = b"\x06\xc4\x10" + JOB_ID + b"\x00\xc3"
WELCOME = b"\x02\xa0\xc4\x10" + JOB_ID + b"\x64\x00\xce\x00\x01\x00\x00\xce\x00\x10\x00\x00"
OFFER = msgspec.msgpack.encode(["", [""] * 16, [""] * 64, None, True, "", 0])

Decode = Callable[[bytes], Decoded[Any]]


def array(count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big")


def from_coordinator(message: bytes) -> Decoded[Any]:
    return VERSION_1.decode_from_coordinator(message, MAX_MESSAGE_TO_AGENT_BYTES)


def from_agent(message: bytes) -> Decoded[Any]:
    return VERSION_1.decode_from_agent(message, MAX_MESSAGE_TO_COORDINATOR_BYTES)


def peak_bytes(decode: Decode, message: bytes) -> int:
    tracemalloc.start()
    try:
        decode(message)
    except ProtocolError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


WIDE = 4 * MIB


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        # Each of these once had its fields made into objects of their own: sixty bytes for one.
        pytest.param(
            from_coordinator, b"\x91" + array(WIDE) + b"\x63" + NIL * (WIDE - 1), id="unknown frame"
        ),
        pytest.param(
            from_coordinator, b"\x91" + array(WIDE) + ACK + NIL * (WIDE - 4), id="newer fields"
        ),
        pytest.param(
            from_coordinator,
            b"\x92\x91\x63" + array(WIDE) + ACK + NIL * (WIDE - 4),
            id="newer fields beside an unknown frame",
        ),
        pytest.param(
            from_coordinator, b"\x91\x92\x63" + array(WIDE) + NIL * WIDE, id="an unknown field"
        ),
        pytest.param(from_coordinator, array(WIDE) + NIL * WIDE, id="a message of nothing"),
        pytest.param(
            from_coordinator,
            b"\x91\x98" + WELCOME + b"\xdf" + (WIDE // 2).to_bytes(4, "big") + NIL * WIDE,
            id="resumed jobs",
        ),
        pytest.param(
            from_coordinator, array(MAX_FRAMES_PER_MESSAGE) + b"\x91\x63" * 2**14, id="tiny frames"
        ),
        pytest.param(from_coordinator, b"\x91" * WIDE, id="deep"),
        pytest.param(from_agent, b"\x91\x94\x22\x01" + array(WIDE) + NIL * WIDE, id="models"),
    ],
)
def test_a_hostile_message_costs_no_more_than_its_size(decode: Decode, message: bytes) -> None:
    assert peak_bytes(decode, message) <= 2 * MIB + len(message) // 4


def test_the_newer_fields_of_that_table_are_no_error() -> None:
    message = b"\x91" + array(100) + ACK + NIL * 96
    assert from_coordinator(message).frames == [Ack(JOB_ID, 0, final=True)]


def test_the_biggest_catalogue_costs_a_few_times_its_size() -> None:
    message = b"\x91\x95\x22\x01\xdc\x10\x00" + OFFER * 4096 + b"\x91\x01\x80"
    assert len(from_agent(message).frames[0].models) == 4096
    assert peak_bytes(from_agent, message) <= 16 * len(message)


@pytest.mark.parametrize(
    "promise",
    [b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"],
    ids=["array", "map", "bin", "str", "ext"],
)
@pytest.mark.parametrize(
    "prefix", [b"", b"\x91", b"\x91\x94\x22\x01", b"\x91\x94\x25\xc4\x10" + JOB_ID + b"\x00"]
)
def test_a_length_that_nothing_follows_reserves_nothing(promise: bytes, prefix: bytes) -> None:
    message = prefix + promise + b"\xff\xff\xff\xff"
    with pytest.raises(ProtocolError):
        from_agent(message)
    assert peak_bytes(from_agent, message) <= MIB
