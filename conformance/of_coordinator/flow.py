"""Cases about flow control: acknowledgements and the window."""

import asyncio
from collections.abc import Callable
from typing import Final

from provider_agent.conformance.agent_peer import AgentPeer
from provider_agent.conformance.case import CaseList, NotHeld, require
from provider_agent.conformance.coordinator_under_test import CoordinatorUnderTest
from provider_agent.conformance.peer import SILENCE_S
from provider_agent.conformance.played_job import PlayedJob
from provider_agent.protocol.frames import Ack
from provider_agent.protocol.limits import MIB

CASES = CaseList[CoordinatorUnderTest]()

_FLOW: Final = "flow-control"

MOST_BUFFERED_BYTES: Final = 32 * MIB
"""More than one window plus what the sockets between a coordinator and a client that does not read
can buffer."""


def _window(agent: AgentPeer) -> int:
    return agent.welcome.window_bytes


@CASES.must("ack-early", _FLOW, "An `Ack` does not wait for a full window.")
async def acknowledges_before_full_window(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    job = await coordinator.start(agent)
    size = _window(agent) * 3 // 4
    await job.write(bytes(size))
    reading = asyncio.create_task(job.client.read(size))
    try:
        ack = await agent.expect(Ack, job.job_id)
        await reading
    finally:
        reading.cancel()
    await job.finish()
    return f"Ack of {ack.offset} after {size} bytes"


def _covers(offset: int) -> Callable[[Ack], bool]:
    return lambda ack: ack.offset >= offset


@CASES.should("ack-quarter", _FLOW, "An `Ack` is sent for each quarter of the window.")
async def acknowledges_quarters(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    job = await coordinator.start(agent)
    size = _window(agent) // 4
    for number in range(1, 5):
        await job.write(bytes(size))
        await job.client.read(size)
        await agent.expect(Ack, job.job_id, where=_covers(number * size))
    await job.finish()
    return f"4 acknowledgements of {size} bytes"


@CASES.must("window-exceeded", _FLOW, "More data than the window allows closes with 1002.")
async def refuses_more_than_window(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    job = await coordinator.start(agent)
    sent = await _fill(job, _window(agent))
    # A slow coordinator may still acknowledge some bytes. `MOST_BUFFERED_BYTES` more exceed its
    # window nevertheless.
    while not agent.closed.is_set() and job.sent < sent + MOST_BUFFERED_BYTES:
        await job.write(bytes(64 * 1024))
    return await agent.expect_close(1002)


async def _fill(job: PlayedJob, window: int) -> int:
    """Send within the window until the acknowledgements stop; return how many bytes were sent."""
    acked = 0
    while acked <= MOST_BUFFERED_BYTES:
        while job.sent - acked < window:
            await job.write(bytes(min(64 * 1024, window - (job.sent - acked))))
        try:
            acked = (await job.agent.expect(Ack, job.job_id, within_s=2 * SILENCE_S)).offset
        except NotHeld:
            return job.sent
    raise NotHeld(f"{acked} bytes were acknowledged although the client read nothing")


@CASES.must("ack-passed-on", _FLOW, "Bytes in an unbounded buffer are not acknowledged.")
async def bounds_its_buffer(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    job = await coordinator.start(agent)
    stopped_at = await _fill(job, _window(agent))
    reading = asyncio.create_task(job.client.read(stopped_at))
    try:
        await agent.expect(Ack, job.job_id)
        received = await reading
    finally:
        reading.cancel()
    require(received == bytes(stopped_at), "the client received other bytes")
    await job.finish()
    return f"stopped after {stopped_at} bytes, continued when the client read"


@CASES.must("window-per-job", _FLOW, "A slow consumer does not stop other jobs.")
async def separates_windows(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    slow = await coordinator.start(agent)
    await _fill(slow, _window(agent))
    await coordinator.run_job(agent)
    await slow.client.disconnect()
    await slow.fail("cancelled")
    return "another job was run while the window of the first was full"
