import asyncio

import pytest

from provider_agent.agent.jobs.channel import JobChannel
from provider_agent.agent.link.coalescing import (
    AFTER_REQUEST_S,
    MAX_BYTES,
    RATE_WINDOW_S,
    Coalescing,
)
from provider_agent.protocol.frames import (
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


def is_due_after(clock: FakeClock, coalescing: Coalescing, frames: int, every_s: float) -> bool:
    """Whether a rest is due after messages that were sent for twice the time of the measurement."""
    due = False
    for _ in range(int(2 * RATE_WINDOW_S / every_s) + 2):
        clock.now += every_s
        due = coalescing.is_due(frames, 1000)
    return due


@pytest.mark.parametrize(
    ("frames", "every_s", "due"),
    [
        (1, 0.02, False),
        (1, 0.0011, False),
        (1, 0.0009, True),
        (2, 0.0015, True),
        (1000, 0.001, True),
        (5, 0.002, True),
        (5, 0.0021, False),
        (1000, 0.02, False),
    ],
)
def test_loop_rests_at_a_high_rate(frames: int, every_s: float, due: bool) -> None:
    clock = FakeClock()
    assert is_due_after(clock, Coalescing(0.001, clock), frames, every_s) is due
    assert not is_due_after(clock, Coalescing(0.0, clock), frames, every_s)


def test_loop_does_not_rest_after_a_large_message() -> None:
    clock = FakeClock()
    coalescing = Coalescing(0.001, clock)
    assert is_due_after(clock, coalescing, 10, 0.001)
    assert coalescing.is_due(10, MAX_BYTES)
    assert not coalescing.is_due(10, MAX_BYTES + 1)


def test_first_messages_after_a_pause_are_not_followed_by_a_rest() -> None:
    clock = FakeClock()
    coalescing = Coalescing(0.001, clock)
    assert is_due_after(clock, coalescing, 10, 0.001)
    clock.now += 1.0
    assert not coalescing.is_due(10, 1000)


def test_loop_does_not_rest_while_a_job_starts() -> None:
    clock = FakeClock()
    coalescing = Coalescing(0.001, clock)
    assert is_due_after(clock, coalescing, 10, 0.001)
    coalescing.request_received()
    end = clock.now + AFTER_REQUEST_S
    for _ in range(9):
        clock.now += 0.001
        assert not coalescing.is_due(10, 1000)
    clock.now = end
    assert coalescing.is_due(10, 1000)


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


async def send_for_a_while(channels: list[JobChannel], peer: AgentConnection) -> None:
    """Send a chunk of each job every 1.5 ms, until the rate is known."""
    for _ in range(30):
        await asyncio.sleep(0.0015)
        await send_chunks(channels, peer)


@pytest.mark.parametrize("jobs", [1, 2, 100])
@in_virtual_time
async def test_link_rests_while_many_chunks_are_sent(jobs: int) -> None:
    async with ScriptedCoordinator() as coordinator:
        link, peer = await connect(coordinator)
        channels = await start_jobs(link, peer, jobs)
        await send_for_a_while(channels, peer)
        assert set(link.rests) == ({0.001} if jobs > 1 else set())
        await peer.close(1000)
        await link.disconnect()


@in_virtual_time
async def test_link_does_not_rest_right_after_a_request() -> None:
    async with ScriptedCoordinator() as coordinator:
        link, peer = await connect(coordinator)
        channels = await start_jobs(link, peer, 10)
        await send_for_a_while(channels, peer)
        await peer.send(RequestChunk(b"unknown job " + bytes(4), 0, b"x"))
        await peer.settle()
        link.rests.clear()
        await send_chunks(channels, peer)
        assert link.rests == []
        await peer.close(1000)
        await link.disconnect()


@in_virtual_time
async def test_link_rests_after_the_last_of_several_messages() -> None:
    async with ScriptedCoordinator() as coordinator:
        link, peer = await connect(coordinator)
        channels = await start_jobs(link, peer, 10)
        await send_for_a_while(channels, peer)
        link.rests.clear()
        link.outbox.put(Draining(10))
        await send_chunks(channels, peer)
        await peer.next(Draining)
        assert len(link.rests) == 1, "after both"
        await peer.close(1000)
        await link.disconnect()
