from typing import get_args

import msgspec
import pytest
from rich.pretty import pretty_repr

from provider_agent.protocol import frames
from provider_agent.protocol.frames import AgentFrame, CoordinatorFrame
from provider_agent.protocol.job import Job

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


CONTENT = "a secret or a prompt"


@pytest.mark.parametrize(
    "struct",
    [
        Job(b"j" * 16, "m", "openai", CONTENT.encode(), 60_000),
        frames.RequestChunk(b"j" * 16, 0, CONTENT.encode()),
        frames.Chunk(b"j" * 16, 0, CONTENT.encode()),
        frames.JobError(b"j" * 16, 0, "internal", "m", body=CONTENT.encode()),
        frames.Hello("1", b"k" * 32, b"s" * 64, enrollment_code=CONTENT),
    ],
    ids=lambda struct: type(struct).__name__,
)
def test_repr_shows_only_the_length_of_content(struct: msgspec.Struct) -> None:
    # A third party's adapter put `repr(job)` into the message of an exception, and such messages
    # are logged.
    shown = f"{struct!r} {pretty_repr(struct)}"

    assert CONTENT not in shown
    assert shown.count(f"<length {len(CONTENT)}>") == 2
    assert struct.__struct_fields__[0] in shown


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
