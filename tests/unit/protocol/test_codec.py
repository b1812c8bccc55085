import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.protocol.codec import VERSION_1, Decoded
from provider_agent.protocol.exceptions import MalformedMessage, ProtocolError
from provider_agent.protocol.frames import AgentFrame, Chunk, CoordinatorFrame, Draining
from provider_agent.protocol.limits import SUBPROTOCOL
from tests.unit.protocol import frame_strategies
from tests.unit.protocol.vectors import FOLDER, VECTORS, Vector, notation

LIMIT = 32 * 1024 * 1024
JOB_ID = b"\x0b" * 16
SECRET = "sk-the-clients-prompt"


def encode_raw(*frames: object) -> bytes:
    return msgspec.msgpack.encode(list(frames))


def from_agent(message: bytes | str) -> Decoded[AgentFrame]:
    return VERSION_1.decode_from_agent(message, LIMIT)


def from_coordinator(message: bytes | str) -> Decoded[CoordinatorFrame]:
    return VERSION_1.decode_from_coordinator(message, LIMIT)


def test_version_1_has_its_subprotocol() -> None:
    assert VERSION_1.subprotocol == SUBPROTOCOL == "provider-agent.v1"


@given(st.lists(frame_strategies.FROM_AGENT, min_size=1, max_size=4))
def test_agent_frames_round_trip(frames: list[AgentFrame]) -> None:
    assert from_agent(VERSION_1.encode(frames)).frames == frames


@given(st.lists(frame_strategies.FROM_COORDINATOR, min_size=1, max_size=4))
def test_coordinator_frames_round_trip(frames: list[CoordinatorFrame]) -> None:
    assert from_coordinator(VERSION_1.encode(frames)).frames == frames


# --- the vectors ----------------------------------------------------------------------------------

FROZEN = {"vectors.json": "b7a556fde6ddd6ce3f459f312838f5976c0af6629db2c3d06ae4dc75c90f8ccf"}
"""SHA-256 of each file of vectors."""


def vector_name(vector: Vector) -> str:
    return vector.name


def decode(vector: Vector, message: bytes | str | None = None) -> Decoded[Any]:
    decoder: Callable[[bytes | str, int], Decoded[Any]] = (
        VERSION_1.decode_from_agent
        if vector.sender == "agent"
        else VERSION_1.decode_from_coordinator
    )
    return decoder(vector.data if message is None else message, vector.max_bytes)


def in_notation(frames: Sequence[Any]) -> object:
    return notation(msgspec.msgpack.decode(msgspec.msgpack.encode(frames)))


def test_version_1_is_frozen() -> None:
    found = {
        path.name: hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()
        for path in FOLDER.glob("vectors*.json")
    }

    assert found == FROZEN, (
        "Version 1 of the protocol is frozen: agents and coordinators of other authors depend on "
        "these bytes. Do not change a file of vectors. Put the vectors of an added field, frame or "
        "feature into a new file vectors-<feature>.json, and add its hash to FROZEN."
    )


@pytest.mark.parametrize("vector", VECTORS.frames, ids=vector_name)
def test_a_frame_encodes_to_its_message(vector: Vector) -> None:
    frames = decode(vector).frames

    assert VERSION_1.encode(frames) == vector.data
    assert [type(frame).__name__ for frame in frames] == [vector.frame]


@pytest.mark.parametrize("vector", [*VECTORS.frames, *VECTORS.tolerated], ids=vector_name)
def test_a_message_decodes_to_its_frames(vector: Vector) -> None:
    decoded = decode(vector)

    assert in_notation(decoded.frames) == vector.frames
    assert decoded.unknown_types == vector.unknown_types


@pytest.mark.parametrize("vector", VECTORS.frames, ids=vector_name)
def test_a_truncated_message_is_malformed(vector: Vector) -> None:
    for length in range(len(vector.data)):
        with pytest.raises(MalformedMessage):
            decode(vector, vector.data[:length])


@pytest.mark.parametrize(
    "vector", [*VECTORS.malformed, *VECTORS.integers_as_floats], ids=vector_name
)
def test_a_malformed_message_has_its_close_code(vector: Vector) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode(vector)

    assert caught.value.close_code == vector.close_code


def test_every_frame_has_at_least_two_vectors() -> None:
    count = Counter(vector.frame for vector in VECTORS.frames)

    assert {name for name, number in count.items() if number >= 2} == {
        frame.__name__ for union in (CoordinatorFrame, AgentFrame) for frame in get_args(union)
    }


def test_names_of_vectors_are_unique() -> None:
    for vectors in (VECTORS.frames, VECTORS.tolerated, VECTORS.malformed):
        assert len({vector.name for vector in vectors}) == len(vectors)


def test_a_message_at_the_size_limit_is_accepted() -> None:
    message = encode_raw([40, 1])

    assert VERSION_1.decode_from_agent(message, len(message)).frames == [Draining(1)]


def test_an_error_does_not_contain_the_message() -> None:
    with pytest.raises(MalformedMessage) as caught:
        from_coordinator(encode_raw([4, JOB_ID, "m", SECRET, SECRET, SECRET]))

    assert SECRET not in f"{caught.value} {caught.value.__cause__}"


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
    _decodes_or_raises_protocol_error(encode_raw(*([number, *fields] for number, fields in frames)))


@given(st.lists(frame_strategies.FROM_AGENT, min_size=1, max_size=3), st.data())
def test_a_message_with_a_changed_byte_decodes_or_raises_a_protocol_error(
    frames: list[AgentFrame], data: st.DataObject
) -> None:
    message = bytearray(VERSION_1.encode(frames))
    position = data.draw(st.integers(0, len(message) - 1))
    message[position] ^= data.draw(st.integers(1, 255))

    _decodes_or_raises_protocol_error(bytes(message))


def test_a_chunk_of_one_mebibyte_is_accepted() -> None:
    frames: list[AgentFrame] = [Chunk(JOB_ID, 0, bytes(1024 * 1024))]

    assert from_agent(VERSION_1.encode(frames)).frames == frames
