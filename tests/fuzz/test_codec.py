"""Arbitrary bytes decode to well-formed frames or raise a `ProtocolError`."""

import math
import tracemalloc
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from provider_agent.protocol.codec import VERSION_1, Decoded
from provider_agent.protocol.exceptions import MalformedMessage, MessageTooBig, ProtocolError
from provider_agent.protocol.frames import AgentFrame, CoordinatorFrame
from provider_agent.protocol.limits import MAX_FRAMES_PER_MESSAGE, MAX_MESSAGE_TO_AGENT_BYTES, MIB
from tests.fuzz.depth import STEPS_DONE, depth
from tests.unit.protocol.frame_strategies import FROM_AGENT, FROM_COORDINATOR

Frame = AgentFrame | CoordinatorFrame

HEADERS = [b"\x91", b"\x9f", b"\xdc", b"\xdd", b"\x81", b"\xde", b"\xdf", b"\xc4", b"\xc6", b"\xdb"]
HEADERS += [b"\xc7", b"\xc9", b"\xd8", b"\xcf", b"\xcb", b"\xc1", b"\xc0", b"\xff\xff\xff\xff"]
"""Bytes that start MessagePack values; the first ten start arrays, maps, binaries and strings. The
byte c1 is invalid in MessagePack, and the last entry is the largest length."""
MESSAGES: SearchStrategy[Sequence[Frame]] = st.lists(FROM_AGENT, min_size=1, max_size=3) | st.lists(
    FROM_COORDINATOR, min_size=1, max_size=3
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary()
    | st.text(max_size=8) | st.binary(min_size=16, max_size=16),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)  # fmt: skip


def decode_both_ways(
    message: bytes | str, max_bytes: int = MIB
) -> list[Decoded[Any] | ProtocolError]:
    """Decode a message as both sides would; only MalformedMessage and MessageTooBig are caught."""
    STEPS_DONE["messages"] += 1
    outcomes: list[Decoded[Any] | ProtocolError] = []
    for decode in (VERSION_1.decode_from_agent, VERSION_1.decode_from_coordinator):
        try:
            decoded = decode(message, max_bytes)
        except (MalformedMessage, MessageTooBig) as error:
            outcomes.append(error)
            continue
        count = len(decoded.frames) + len(decoded.unknown_types)
        assert 0 < count <= MAX_FRAMES_PER_MESSAGE
        _assert_encodable(decoded.frames)
        outcomes.append(decoded)
    return outcomes


def _assert_encodable(frames: Sequence[Frame]) -> None:
    """Assert that frames that were decoded can be encoded, and decode to the same frames again."""
    if frames:
        message = VERSION_1.encode(frames)
        again = [one for one in decode_valid(message) if one.frames]
        assert any(_equal(one.frames, frames) for one in again)


def decode_valid(message: bytes) -> list[Decoded[Any]]:
    return [
        VERSION_1.decode_from_agent(message, len(message)),
        VERSION_1.decode_from_coordinator(message, len(message)),
    ]


def _equal(ones: Sequence[Frame], others: Sequence[Frame]) -> bool:
    """Equality in which NaN equals itself."""
    return repr(ones) == repr(others)


@given(MESSAGES)
@depth(2)
def test_valid_frames_round_trip(frames: Sequence[Frame]) -> None:
    assert any(
        isinstance(one, Decoded) and one.frames == list(frames) and not one.unknown_types
        for one in decode_both_ways(VERSION_1.encode(frames))
    )


@given(st.binary(max_size=300) | st.text(max_size=20))
@depth(2)
def test_arbitrary_bytes_decode_or_are_rejected(message: bytes | str) -> None:
    decode_both_ways(message)


@given(st.lists(st.sampled_from(HEADERS) | st.binary(min_size=1, max_size=4), max_size=40))
@depth(2)
def test_random_sequence_of_messagepack_headers_decodes_or_is_rejected(pieces: list[bytes]) -> None:
    decode_both_ways(b"".join(pieces))


@given(st.lists(st.tuples(st.integers(-1, 64), st.lists(VALUES, max_size=8)), max_size=3))
@depth()
def test_fields_of_any_type_decode_or_are_rejected(
    frames: list[tuple[int, list[object]]],
) -> None:
    decode_both_ways(msgspec.msgpack.encode([[number, *fields] for number, fields in frames]))


@given(MESSAGES, st.data())
@depth(2)
def test_a_mutated_message_decodes_or_is_rejected(
    frames: Sequence[Frame], data: st.DataObject
) -> None:
    message = bytearray(VERSION_1.encode(frames))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(message)))
        match data.draw(st.sampled_from(["flip", "drop", "insert", "cut", "repeat"])):
            case "flip" if at < len(message):
                message[at] ^= data.draw(st.integers(1, 255))
            case "drop":
                del message[at : at + data.draw(st.integers(1, 9))]
            case "insert":
                message[at:at] = data.draw(st.sampled_from(HEADERS))
            case "cut":
                del message[at:]
            case _:
                message[at:at] = message[: data.draw(st.integers(0, 40))]
    decode_both_ways(bytes(message))


@given(MESSAGES, st.lists(VALUES, max_size=3), st.integers(41, 2**63))
@depth()
def test_unknown_fields_and_frames_are_skipped(
    frames: Sequence[Frame], newer: list[object], number: int
) -> None:
    own: list[list[object]] = msgspec.msgpack.decode(VERSION_1.encode(frames))
    plain = decode_both_ways(msgspec.msgpack.encode(own))
    longer = decode_both_ways(msgspec.msgpack.encode([[*frame, *newer] for frame in own]))
    more = decode_both_ways(msgspec.msgpack.encode([[number, *newer], *own]))
    for one, with_fields, with_frame in zip(plain, longer, more, strict=True):
        assert isinstance(one, Decoded)
        assert isinstance(with_fields, Decoded)
        assert isinstance(with_frame, Decoded)
        assert one.frames == with_fields.frames == with_frame.frames
        assert one.unknown_types == with_fields.unknown_types
        assert with_frame.unknown_types == [number, *one.unknown_types]


@given(
    st.lists(st.sampled_from([b"\x91", b"\x81\xa0", b"\x92\x63", b"\x91\x92\x05"]), min_size=1),
    st.integers(1, 200_000),
)
@depth(0.5)
def test_truncated_nesting_is_malformed_at_any_depth(pattern: list[bytes], times: int) -> None:
    message = b"".join(pattern) * (times // len(pattern) + 1)
    assert all(isinstance(one, MalformedMessage) for one in decode_both_ways(message))


@given(st.integers(1, 200), st.integers(0, 199))
@depth()
def test_the_size_limit_is_checked_before_decoding(size: int, limit: int) -> None:
    outcomes = decode_both_ways(b"\xc1" * size, limit)
    too_big = size > limit
    assert all(isinstance(one, MessageTooBig) is too_big for one in outcomes)


@given(st.sampled_from(HEADERS[:10]), st.integers(0, 70), st.integers(0, 2**20))
@depth(0.5)
def test_a_frame_of_many_fields_allocates_little_memory(
    header: bytes, number: int, width: int
) -> None:
    length = width.to_bytes(4, "big")
    message = b"\x91\xdd" + length + bytes([number]) + header + length + b"\xc0" * width
    tracemalloc.start()
    decode_both_ways(message, MAX_MESSAGE_TO_AGENT_BYTES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 4 * len(message) + MIB


def test_nan_and_infinity_round_trip() -> None:
    message = msgspec.msgpack.encode([[35, 0, 0, 1, math.nan, math.inf, -math.inf, None]])
    (frame,) = VERSION_1.decode_from_agent(message, MIB).frames
    assert _equal([frame], VERSION_1.decode_from_agent(VERSION_1.encode([frame]), MIB).frames)
