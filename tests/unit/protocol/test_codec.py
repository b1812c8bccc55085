from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.protocol.codec import VERSION_1, Decoded
from provider_agent.protocol.exceptions import MalformedMessage, MessageTooBig, ProtocolError
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    Cancel,
    Chunk,
    CoordinatorFrame,
    Draining,
)
from provider_agent.protocol.limits import (
    MAX_FRAMES_PER_MESSAGE,
    MAX_MODELS,
    MAX_NAME_CHARS,
    MAX_REQUEST_BYTES,
    SUBPROTOCOL,
)
from tests.unit.protocol import frame_strategies

LIMIT = 32 * 1024 * 1024
JOB_ID = b"\x0b" * 16
SECRET = "sk-the-clients-prompt"


def wire(*frames: object) -> bytes:
    return msgspec.msgpack.encode(list(frames))


def from_agent(message: bytes | str) -> Decoded[AgentFrame]:
    return VERSION_1.decode_from_agent(message, LIMIT)


def from_coordinator(message: bytes | str) -> Decoded[CoordinatorFrame]:
    return VERSION_1.decode_from_coordinator(message, LIMIT)


def test_version_1_has_its_subprotocol() -> None:
    assert VERSION_1.subprotocol == SUBPROTOCOL == "provider-agent.v1"


def test_frames_keep_their_order() -> None:
    frames: list[CoordinatorFrame] = [Ack(JOB_ID, 5), Cancel(JOB_ID), Ack(JOB_ID, 7)]

    decoded = from_coordinator(VERSION_1.encode(frames))

    assert decoded.frames == frames
    assert decoded.unknown_types == []


@given(st.lists(frame_strategies.FROM_AGENT, min_size=1, max_size=4))
def test_agent_frames_round_trip(frames: list[AgentFrame]) -> None:
    assert from_agent(VERSION_1.encode(frames)).frames == frames


@given(st.lists(frame_strategies.FROM_COORDINATOR, min_size=1, max_size=4))
def test_coordinator_frames_round_trip(frames: list[CoordinatorFrame]) -> None:
    assert from_coordinator(VERSION_1.encode(frames)).frames == frames


# --- size and shape -------------------------------------------------------------------------------


def test_a_message_at_the_size_limit_is_accepted() -> None:
    message = wire([40, 1])

    assert VERSION_1.decode_from_agent(message, len(message)).frames == [Draining(1)]


def test_a_message_over_the_size_limit_has_close_code_1009() -> None:
    message = wire([40, 1])

    with pytest.raises(MessageTooBig) as caught:
        VERSION_1.decode_from_agent(message, len(message) - 1)

    assert caught.value.close_code == 1009


@pytest.mark.parametrize(
    "message",
    [
        pytest.param("[[5]]", id="text message"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\xc1", id="byte that MessagePack never uses"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="HTTP"),
        pytest.param(wire(), id="no frames"),
        pytest.param(wire([]), id="a frame without a type"),
        pytest.param(wire([5, JOB_ID]) + b"\x00", id="bytes after the message"),
        pytest.param(msgspec.msgpack.encode(5), id="not an array"),
        pytest.param(msgspec.msgpack.encode({"frames": []}), id="a map"),
        pytest.param(wire({"type": 5, "job_id": JOB_ID}), id="a frame that is a map"),
        pytest.param(wire(["5", JOB_ID]), id="type as a string"),
        pytest.param(wire([5.0, JOB_ID]), id="type as a float"),
        pytest.param(wire([True, JOB_ID]), id="type as a boolean"),
        pytest.param(wire([None, JOB_ID]), id="type is null"),
        pytest.param(wire([5]), id="a field missing"),
        pytest.param(wire([6, JOB_ID]), id="a later field missing"),
        pytest.param(wire([5, "b" * 16]), id="job id as a string"),
        pytest.param(wire([5, JOB_ID[:15]]), id="job id too short"),
        pytest.param(wire([5, JOB_ID + b"x"]), id="job id too long"),
        pytest.param(wire([5, JOB_ID, b"bin"]), id="text as bin"),
        pytest.param(wire([5, JOB_ID, None]), id="null instead of a string"),
        pytest.param(wire([6, JOB_ID, -1]), id="a negative offset"),
        pytest.param(wire([6, JOB_ID, 1.5]), id="a fractional offset"),
        pytest.param(wire([6, JOB_ID, True]), id="an offset that is a boolean"),
        pytest.param(wire([6, JOB_ID, 2**53]), id="an offset of 2^53"),
        pytest.param(wire([6, JOB_ID, 0, 1]), id="a boolean that is a number"),
        pytest.param(wire([8, JOB_ID, 0, "{}"]), id="request as a string"),
        pytest.param(wire([4, JOB_ID, "m", "openai", 2, 86_400_001]), id="over a day"),
        pytest.param(
            wire([4, JOB_ID, "m" * (MAX_NAME_CHARS + 1), "openai", 2, 1]), id="name too long"
        ),
        pytest.param(
            wire([4, JOB_ID, "m", "openai", MAX_REQUEST_BYTES + 1, 1]), id="request too big"
        ),
        pytest.param(
            wire([2, "p", JOB_ID, 99, 0, 65536, 2**20]), id="heartbeat interval too short"
        ),
        pytest.param(wire([2, "p", JOB_ID, 100, 0, 65536, 2**20, {JOB_ID: 1}]), id="a map"),
        pytest.param(b"\x91\x93\x05\xc4\x10" + JOB_ID + b"\xa2\xff\xfe", id="invalid UTF-8"),
        pytest.param(b"\xdd\xff\xff\xff\xff", id="array header for 4 billion frames"),
        pytest.param(b"\x91\x93\x06\xc6\xff\xff\xff\xff", id="bin header for 4 GiB"),
        pytest.param(wire(*[[99]] * (MAX_FRAMES_PER_MESSAGE + 1)), id="too many unknown frames"),
        pytest.param(wire(*[[5, JOB_ID]] * (MAX_FRAMES_PER_MESSAGE + 1)), id="too many frames"),
    ],
)
def test_a_malformed_message_has_close_code_1002(message: bytes | str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        from_coordinator(message)

    assert caught.value.close_code == 1002


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param([36, JOB_ID, 99, "text/plain", "b"], id="status below 100"),
        pytest.param([36, JOB_ID, 600, "text/plain", "b"], id="status over 599"),
        pytest.param([37, JOB_ID, 0, "text"], id="data as a string"),
        pytest.param([33, "v", bytes(31), bytes(64)], id="short key"),
        pytest.param([33, "v", bytes(32), bytes(63)], id="short signature"),
        pytest.param(
            [33, "v", bytes(32), bytes(64), "", "", JOB_ID, [[JOB_ID, 0]]],
            id="live job without its last offset",
        ),
        pytest.param([34, 1, [[]] * (MAX_MODELS + 1), [1]], id="too many models"),
        pytest.param([39, JOB_ID, 0, "internal", "m", 0], id="upstream status 0"),
    ],
)
def test_a_malformed_frame_of_an_agent_is_rejected(frame: list[object]) -> None:
    with pytest.raises(MalformedMessage):
        from_agent(wire(frame))


def test_a_truncated_message_is_malformed() -> None:
    message = wire([4, JOB_ID, "model", "openai", 7, 1000], [8, JOB_ID, 70_000, b"{}"])

    for length in range(len(message)):
        with pytest.raises(MalformedMessage):
            from_coordinator(message[:length])


@pytest.mark.parametrize(
    "prefix",
    [
        pytest.param(b"", id="the message itself"),
        pytest.param(b"\x91\x92\x63", id="in an unknown frame"),
        pytest.param(b"\x91\x95\x06\xc4\x10" + JOB_ID + b"\x00\xc2", id="in an unknown field"),
        pytest.param(b"\x91\x93\x05\xc4\x10" + JOB_ID, id="instead of text"),
    ],
)
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa0"], ids=["arrays", "maps"])
def test_deep_nesting_is_malformed(prefix: bytes, opening: bytes) -> None:
    with pytest.raises(MalformedMessage):
        from_coordinator(prefix + opening * 200_000 + b"\xc0")


def test_an_error_does_not_contain_the_message() -> None:
    with pytest.raises(MalformedMessage) as caught:
        from_coordinator(wire([4, JOB_ID, "m", SECRET, SECRET, SECRET]))

    assert SECRET not in f"{caught.value} {caught.value.__cause__}"


# --- versions -------------------------------------------------------------------------------------


def test_a_frame_of_an_unknown_type_is_skipped_and_reported() -> None:
    decoded = from_coordinator(wire([31, {"new": [1, 2]}], [5, JOB_ID, "x"], [30], [31]))

    assert decoded.frames == [Cancel(JOB_ID, "x")]
    assert decoded.unknown_types == [31, 30, 31]


def test_a_message_with_only_unknown_frames_is_accepted() -> None:
    decoded = from_agent(wire([63, b"\xff"], [2**40]))

    assert decoded.frames == []
    assert decoded.unknown_types == [63, 2**40]


def test_a_frame_of_the_other_direction_counts_as_unknown() -> None:
    assert from_agent(wire([5, JOB_ID])).unknown_types == [5]
    assert from_coordinator(wire([40, 1])).unknown_types == [40]


def test_a_malformed_frame_next_to_an_unknown_one_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        from_coordinator(wire([31], [5, "not an id"]))


def test_unknown_trailing_fields_are_ignored() -> None:
    decoded = from_coordinator(wire([6, JOB_ID, 9, True, "newer", {"deep": [None]}]))

    assert decoded.frames == [Ack(JOB_ID, 9, final=True)]


def test_absent_trailing_fields_have_their_defaults() -> None:
    assert from_coordinator(wire([6, JOB_ID, 9])).frames == [Ack(JOB_ID, 9, final=False)]


def test_unknown_formats_operations_and_codes_are_decoded() -> None:
    assert from_coordinator(wire([4, JOB_ID, "m", "gemini", 2, 1, "sing"])).frames
    assert from_agent(wire([39, JOB_ID, 0, "a_new_code", "m"])).frames


def test_a_rate_may_be_encoded_as_an_integer() -> None:
    assert from_agent(wire([35, 0, 0, 1, 5, None, None, None])).frames


# --- arbitrary input ------------------------------------------------------------------------------


def _decodes_or_raises_protocol_error(message: bytes | str) -> None:
    for decode in (from_agent, from_coordinator):
        try:
            decoded: Decoded[Any] = decode(message)
        except ProtocolError:
            continue
        assert decoded.frames or decoded.unknown_types


@given(st.binary(max_size=200) | st.text(max_size=20))
def test_any_bytes_decode_or_raise_a_protocol_error(message: bytes | str) -> None:
    _decodes_or_raises_protocol_error(message)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.binary()
    | st.text(max_size=8) | st.just(JOB_ID),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 64), st.lists(_VALUES, max_size=8)), max_size=3))
def test_any_messagepack_decodes_or_raises_a_protocol_error(
    frames: list[tuple[int, list[object]]],
) -> None:
    _decodes_or_raises_protocol_error(wire(*([number, *fields] for number, fields in frames)))


@given(st.lists(frame_strategies.FROM_AGENT, min_size=1, max_size=3), st.data())
def test_a_flipped_byte_decodes_or_raises_a_protocol_error(
    frames: list[AgentFrame], data: st.DataObject
) -> None:
    message = bytearray(VERSION_1.encode(frames))
    position = data.draw(st.integers(0, len(message) - 1))
    message[position] ^= data.draw(st.integers(1, 255))

    _decodes_or_raises_protocol_error(bytes(message))


def test_a_chunk_of_one_mebibyte_is_accepted() -> None:
    frames: list[AgentFrame] = [Chunk(JOB_ID, 0, bytes(1024 * 1024))]

    assert from_agent(VERSION_1.encode(frames)).frames == frames
