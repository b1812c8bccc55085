from typing import get_args

import msgspec
import pytest

from provider_agent.protocol import frames
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.frames import AgentFrame, CoordinatorFrame
from provider_agent.protocol.limits import (
    MAX_MESSAGE_TO_AGENT_BYTES,
    MAX_MESSAGE_TO_COORDINATOR_BYTES,
)
from tests.unit.protocol.golden_vectors import FROM_AGENT, FROM_COORDINATOR, Vector

ALL_FRAMES: list[type[msgspec.Struct]] = [*get_args(CoordinatorFrame), *get_args(AgentFrame)]


def _vector_name(vector: Vector) -> str:
    return vector.name


@pytest.mark.parametrize("vector", [*FROM_COORDINATOR, *FROM_AGENT], ids=_vector_name)
def test_encoding_a_frame_produces_its_golden_bytes(vector: Vector) -> None:
    assert VERSION_1.encode([vector.frame]) == vector.message


@pytest.mark.parametrize("vector", FROM_COORDINATOR, ids=_vector_name)
def test_decoding_golden_bytes_of_a_coordinator(vector: Vector) -> None:
    decoded = VERSION_1.decode_from_coordinator(vector.message, MAX_MESSAGE_TO_AGENT_BYTES)

    assert decoded.frames == [vector.frame]


@pytest.mark.parametrize("vector", FROM_AGENT, ids=_vector_name)
def test_decoding_golden_bytes_of_an_agent(vector: Vector) -> None:
    decoded = VERSION_1.decode_from_agent(vector.message, MAX_MESSAGE_TO_COORDINATOR_BYTES)

    assert decoded.frames == [vector.frame]


def test_every_frame_has_a_golden_vector() -> None:
    assert {type(vector.frame) for vector in (*FROM_COORDINATOR, *FROM_AGENT)} == set(ALL_FRAMES)


def test_frame_types_of_version_1_are_fixed() -> None:
    assert {frame.__name__: frame.__struct_config__.tag for frame in ALL_FRAMES} == {
        "Challenge": 1,
        "Welcome": 2,
        "Rejected": 3,
        "JobHeader": 4,
        "Cancel": 5,
        "Ack": 6,
        "Drain": 7,
        "RequestChunk": 8,
        "Notice": 9,
        "RoutingStatus": 10,
        "Hello": 33,
        "Capabilities": 34,
        "Heartbeat": 35,
        "JobStarted": 36,
        "Chunk": 37,
        "JobResult": 38,
        "JobError": 39,
        "Draining": 40,
    }


def test_a_job_id_is_encoded_as_sixteen_bytes_of_bin() -> None:
    # After the frame's array header and type: bin 8 (c4) of length 16 (10).
    vector = next(vector for vector in FROM_COORDINATOR if vector.name == "ack")

    assert vector.message[3:5] == b"\xc4\x10"


def test_every_public_frame_documents_each_of_its_fields() -> None:
    structs = [
        value
        for value in vars(frames).values()
        if isinstance(value, type)
        and issubclass(value, msgspec.Struct)
        and value is not msgspec.Struct
    ]

    undocumented = [
        f"{struct.__name__}.{field}"
        for struct in structs
        for field in struct.__struct_fields__
        if f"    {field}: " not in (struct.__doc__ or "")
    ]

    assert undocumented == []
