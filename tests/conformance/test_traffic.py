"""The rule about the order of a job's frames, with transcripts written by hand."""

import pytest
from msgspec import Struct

from provider_agent.conformance.agent_peer import result
from provider_agent.conformance.case import NotHeld
from provider_agent.conformance.coordinator_peer import CoordinatorPeer
from provider_agent.conformance.of_agent.traffic import sends_responses_in_order
from provider_agent.conformance.peer import Entry, Frame
from provider_agent.protocol.frames import Ack, Chunk, JobHeader, ResumedJob, Welcome

JOB = b"j" * 16
RESUMED = Welcome("p", bytes(16), 1000, 60_000, 2**20, 2**20, [ResumedJob(JOB, 100)])


class Transcript(Struct):
    """The part of a peer that the rule reads."""

    transcript: list[Entry]


def transcript(*frames: Frame) -> CoordinatorPeer:
    """Return a connection with these frames; the direction is the one of the frame's type."""
    sent = (Welcome, JobHeader, Ack)
    entries = [Entry("sent" if isinstance(f, sent) else "received", f, 0.0) for f in frames]
    return Transcript(entries)  # type: ignore[return-value]


async def test_end_may_follow_bytes_that_only_an_earlier_link_carried() -> None:
    # It was reported as an end with a wrong total_bytes.
    peers = [transcript(RESUMED, Ack(JOB, 200), result(JOB, 200))]
    assert await sends_responses_in_order(peers) == "1 frames of jobs"


@pytest.mark.parametrize(
    "frames",
    [
        (Ack(JOB, 200), result(JOB, 201)),
        (Ack(JOB, 200), result(JOB, 150)),
        (Chunk(JOB, 100, b"ab"), result(JOB, 101)),
    ],
    ids=["beyond the Ack", "between both", "fewer than arrived"],
)
async def test_wrong_total_is_found(frames: tuple[Frame, ...]) -> None:
    with pytest.raises(NotHeld):
        await sends_responses_in_order([transcript(RESUMED, *frames)])
