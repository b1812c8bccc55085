import asyncio

import pytest

from provider_agent.agent.jobs.channel import JobChannel
from provider_agent.agent.link.coalescing import (
    AFTER_REQUEST_S,
    MAX_BYTES,
    MAX_FRAMES,
    MIN_FRAMES,
    Coalescing,
)
from provider_agent.protocol.frames import (
    AgentFrame,
    Chunk,
    CoordinatorFrame,
    Draining,
    JobStarted,
    RequestChunk,
)
from tests.kit.fake_clock import FakeClock
from tests.kit.job_channels import open_started
from tests.kit.jobs import new_job
from tests.kit.link_harness import RunningLink, connect
from tests.kit.scripted_coordinator import AgentConnection, ScriptedCoordinator
from tests.kit.virtual_time import in_virtual_time


@pytest.mark.parametrize(
    ("frames", "size", "due"),
    [
        (1, 100, False),
        (MIN_FRAMES - 1, 1000, False),
        (MIN_FRAMES, 1000, True),
        (MAX_FRAMES, MAX_BYTES, True),
        (MAX_FRAMES + 1, MAX_BYTES, False),
        (MAX_FRAMES, MAX_BYTES + 1, False),
    ],
)
def test_loop_rests_after_messages_of_medium_size(frames: int, size: int, due: bool) -> None:
    assert Coalescing(0.001, FakeClock()).is_due(frames, size) is due
    assert not Coalescing(0.0, FakeClock()).is_due(frames, size)


def test_loop_does_not_rest_while_a_job_starts() -> None:
    clock = FakeClock()
    coalescing = Coalescing(0.001, clock)
    coalescing.request_received()
    assert not coalescing.is_due(MIN_FRAMES, 100)
    clock.now += AFTER_REQUEST_S
    assert coalescing.is_due(MIN_FRAMES, 100)


# --- on a link ------------------------------------------------------------------------------------


async def start_jobs(link: RunningLink, peer: AgentConnection, count: int) -> list[JobChannel]:
    """Start jobs, and wait until the coordinator has received their starts."""
    jobs = [new_job(job_id=bytes((number,)) * 16) for number in range(1, count + 1)]
    received = asyncio.Event()

    def note(_frame: CoordinatorFrame) -> None:
        if sum(isinstance(frame, RequestChunk) for frame in link.frames) == count:
            received.set()

    link.on_frame = note
    await peer.send_jobs(*jobs)
    await received.wait()
    channels = [open_started(link.outbox, job.job_id)[0] for job in jobs]
    for job in jobs:
        await peer.next(JobStarted, job.job_id)
    link.rests.clear()
    return channels


async def send_chunks(channels: list[JobChannel], peer: AgentConnection) -> None:
    """Send one chunk of each job, and wait until all have arrived."""
    for channel in channels:
        channel.send_chunk(b"data: x\n\n")
    for channel in channels:
        await peer.next(Chunk, channel.stream.job_id)


@pytest.mark.parametrize(("jobs", "rests"), [(1, []), (3, []), (4, [0.001]), (100, [0.001])])
@in_virtual_time
async def test_link_rests_after_a_message_with_output_of_several_jobs(
    jobs: int, rests: list[float]
) -> None:
    async with ScriptedCoordinator() as coordinator:
        link, peer = await connect(coordinator)
        channels = await start_jobs(link, peer, jobs)
        await asyncio.sleep(AFTER_REQUEST_S)
        await send_chunks(channels, peer)
        assert link.rests == rests
        await peer.close(1000)
        await link.disconnect()


@in_virtual_time
async def test_link_does_not_rest_right_after_a_request() -> None:
    async with ScriptedCoordinator() as coordinator:
        link, peer = await connect(coordinator)
        channels = await start_jobs(link, peer, 10)
        await send_chunks(channels, peer)
        assert link.rests == []
        await peer.close(1000)
        await link.disconnect()


@in_virtual_time
async def test_link_does_not_rest_while_a_control_frame_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ScriptedCoordinator() as coordinator:
        link, peer = await connect(coordinator)
        channels = await start_jobs(link, peer, 10)
        await asyncio.sleep(AFTER_REQUEST_S)
        next_batch = link.outbox.next_batch

        def with_later_control_frame(limit_bytes: int) -> list[AgentFrame]:
            frames = next_batch(limit_bytes)
            if isinstance(frames[0], Chunk):
                link.outbox.put(Draining(10))
            return frames

        monkeypatch.setattr(link.outbox, "next_batch", with_later_control_frame)
        await send_chunks(channels, peer)
        await peer.next(Draining)
        assert link.rests == []
        await peer.close(1000)
        await link.disconnect()
