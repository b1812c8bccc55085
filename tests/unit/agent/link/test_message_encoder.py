from collections.abc import Sequence

import pytest

from provider_agent.agent.link.message_encoder import MessageEncoder
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.frames import (
    AgentFrame,
    AgentLimits,
    Capabilities,
    Chunk,
    Draining,
    JobError,
    JobStarted,
    ResponseFrame,
)

A, B = b"a" * 16, b"b" * 16
LIMIT = 1000
BROKEN = "\udcff"
"""An undecodable byte, as `surrogateescape` represents it; UTF-8 cannot encode it."""
STARTED = JobStarted(A, 200, "text/plain", "x")
OTHER: list[AgentFrame] = [JobStarted(B, 200, "text/plain", "y"), Chunk(B, 0, b"1")]


@pytest.mark.parametrize(
    ("frames", "sent", "failed"),
    [
        ([], [[]], []),
        ([STARTED, *OTHER], [[STARTED, *OTHER]], []),
        (
            [JobStarted(A, 200, BROKEN, "x"), Chunk(A, 0, b"1"), *OTHER],
            [[frame] for frame in OTHER],
            [JobStarted(A, 200, BROKEN, "x")],
        ),
        (
            [STARTED, Chunk(A, 0, b"1"), JobError(A, 1, "internal", BROKEN), *OTHER],
            [[STARTED], [Chunk(A, 0, b"1")], *([frame] for frame in OTHER)],
            [JobError(A, 1, "internal", BROKEN)],
        ),
        (
            [Capabilities(1, [], AgentLimits(1), {"name": BROKEN}), Draining(5)],
            [[Draining(5)]],
            [],
        ),
        ([Capabilities(1, [], AgentLimits(2**64))], [], []),
        (
            [JobError(A, 0, "internal", "", body=b"x" * LIMIT), *OTHER],
            [[frame] for frame in OTHER],
            [JobError(A, 0, "internal", "", body=b"x" * LIMIT)],
        ),
        (
            [JobError(A, 0, "internal", "", body=b"x" * 600), Chunk(B, 0, b"y" * 600)],
            [[JobError(A, 0, "internal", "", body=b"x" * 600)], [Chunk(B, 0, b"y" * 600)]],
            [],
        ),
    ],
    ids=[
        "nothing",
        "all in one message",
        "a start that cannot be encoded, with its chunk",
        "an end that cannot be encoded",
        "a control frame that cannot be encoded",
        "a number that cannot be encoded",
        "a frame over the limit",
        "two frames that exceed the limit together",
    ],
)
def test_frames_that_cannot_be_sent_fail_only_their_job(
    frames: list[AgentFrame], sent: list[list[AgentFrame]], failed: list[ResponseFrame]
) -> None:
    unsendable: list[ResponseFrame] = []
    encoder = MessageEncoder(VERSION_1.encode_messages, LIMIT, unsendable.append)

    messages = encoder.encode(frames)

    assert list(messages) == [VERSION_1.encode(group) for group in sent]
    assert unsendable == failed


def test_a_dialect_with_a_message_per_frame_may_leave_out_frames() -> None:
    def encode(frames: Sequence[AgentFrame]) -> list[bytes]:
        return [VERSION_1.encode([one]) for one in frames if not isinstance(one, JobStarted)]

    unsendable: list[ResponseFrame] = []
    encoder = MessageEncoder(encode, LIMIT, unsendable.append)
    too_large = JobError(A, 0, "internal", "", body=b"x" * LIMIT)

    messages = encoder.encode([STARTED, *OTHER, too_large, Draining(5)])

    assert list(messages) == [VERSION_1.encode([OTHER[1]]), VERSION_1.encode([Draining(5)])]
    assert unsendable == [too_large]
