from typing import get_args

import msgspec

from provider_agent.protocol import frames
from provider_agent.protocol.frames import AgentFrame, CoordinatorFrame

ALL_FRAMES: list[type[msgspec.Struct]] = [*get_args(CoordinatorFrame), *get_args(AgentFrame)]


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
