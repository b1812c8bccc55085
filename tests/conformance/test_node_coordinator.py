"""Tests examples/coordinator.mjs with the conformance kit, and cases that the kit does not have."""

import asyncio
import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from provider_agent.conformance.agent_peer import EVENT_STREAM, offer
from provider_agent.conformance.coordinator_run import run_against_coordinator
from provider_agent.conformance.coordinator_under_test import (
    CoordinatorTarget,
    CoordinatorUnderTest,
)
from provider_agent.protocol.frames import Cancel, Drain, JobStarted, Rejected, Welcome
from tests.kit.conformance_results import deviations

EXAMPLES: Final = Path(__file__).parents[2] / "examples"
NODE: Final = shutil.which("node")

ANSWER_S: Final = 60.0
"""How long the kit waits for an answer, in real time; only a failing test waits so long."""

needs_node = pytest.mark.skipif(
    NODE is None or not (EXAMPLES / "node_modules" / "ws").is_dir(),
    reason="needs Node 20 or newer, and its packages: make examples",
)


@asynccontextmanager
async def running_coordinator() -> AsyncIterator[
    tuple[CoordinatorTarget, asyncio.subprocess.Process]
]:
    """Run the coordinator in Node; yield its addresses and its process."""
    assert NODE is not None
    process = await asyncio.create_subprocess_exec(
        NODE, EXAMPLES / "coordinator.mjs", "--port", "0", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        found = re.fullmatch(r"clients: (\S+)  agents: (\S+)\n", line)
        assert found, line
        yield CoordinatorTarget(found[2], found[1], answer_s=ANSWER_S), process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@needs_node
@pytest.mark.timeout(600)
async def test_the_coordinator_in_node_conforms() -> None:
    async with running_coordinator() as (target, _):
        report = await run_against_coordinator(target, ())

    assert deviations(report) == {
        "receipts": "not tested: the coordinator does not use the feature"
    }


@needs_node
@pytest.mark.timeout(600)
async def test_the_coordinator_in_node_drains() -> None:
    async with running_coordinator() as (target, process), CoordinatorUnderTest(target) as kit:
        agent = await kit.connect()
        job = await kit.start(agent)
        process.send_signal(signal.SIGTERM)
        await agent.expect(Drain)
        await job.write(b"data: [DONE]\n\n")
        await job.finish()
        received, whole = await job.client.read_all()
        await agent.expect_close(1001)
        assert (received, whole) == (b"data: [DONE]\n\n", True)
        assert await process.wait() == 0


@needs_node
@pytest.mark.timeout(600)
async def test_only_one_of_two_newer_processes_replaces_a_dead_process() -> None:
    async with running_coordinator() as (target, _), CoordinatorUnderTest(target) as kit:
        dead = await kit.connect()
        job = await kit.submit(dead)
        dead.socket.transport.pause_reading()
        newer = [
            await kit.dial(kit.other_process(dead, instance_id=name)) for name in ("two", "three")
        ]
        for peer in newer:
            await peer.send(await peer.hello(target.authority))
        answers = await asyncio.gather(*(peer.expect_answer() for peer in newer))
        (rejected,) = [answer for answer in answers if isinstance(answer, Rejected)]
        (admitted,) = [
            peer for peer, answer in zip(newer, answers, strict=True) if isinstance(answer, Welcome)
        ]
        assert rejected.code == "key_in_use"
        named = r"In use by an agent at 127\.0\.0\.1, since \S+Z, version conformance\."
        assert re.fullmatch(named, rejected.message)
        assert (await job.client.response()).status == 502, "the dead process has lost its job"
        body, _ = await job.client.read_all()
        assert b'"code":"provider_lost"' in body
        await admitted.advertise(offer(dead.process.model_id))
        await kit.run_job(admitted)


@needs_node
@pytest.mark.timeout(600)
@pytest.mark.parametrize("restarted", ["second process", "another process"])
async def test_a_replaced_process_finishes_its_jobs_when_its_successor_restarts(
    restarted: str,
) -> None:
    # Regression: its jobs were ended when its successor connected again. Only a process that this
    # connection itself replaced kept its jobs.
    async with running_coordinator() as (target, _), CoordinatorUnderTest(target) as kit:
        first = await kit.connect()
        job = await kit.start(first)
        successor = kit.other_process(first, instance_id="second process")
        second = await kit.connect(successor, replace_older=True)
        await second.cut()
        third = await kit.connect(kit.other_process(first, instance_id=restarted))
        await kit.run_job(third)
        await job.write(b"data: [DONE]\n\n")
        await job.finish()
        await first.expect_close(4001)
        assert await job.client.read_all() == (b"data: [DONE]\n\n", True)


@needs_node
@pytest.mark.timeout(600)
async def test_a_replaced_process_receives_jobs_again_when_it_resumes_as_the_only_one() -> None:
    async with running_coordinator() as (target, _), CoordinatorUnderTest(target) as kit:
        first = await kit.connect()
        job = await kit.start(first)
        successor = kit.other_process(first, instance_id="second process")
        second = await kit.connect(successor, replace_older=True)
        await second.close(1000)
        job.agent = first = await kit.reconnect(first, job.live())
        await kit.run_job(first)


@needs_node
@pytest.mark.timeout(600)
@pytest.mark.parametrize("status", [100, 204])
async def test_a_client_receives_an_error_for_a_status_without_a_body(status: int) -> None:
    async with running_coordinator() as (target, _), CoordinatorUnderTest(target) as kit:
        agent = await kit.connect()
        streaming, empty = await kit.submit(agent), await kit.submit(agent)
        for job in (streaming, empty):
            await agent.send(JobStarted(job.job_id, status, EVENT_STREAM, "backend"))
        await streaming.write(b"data: [DONE]\n\n")
        assert (await streaming.client.response()).status == 502
        await agent.expect(Cancel, streaming.job_id)
        await streaming.fail("cancelled")
        await empty.finish()
        assert (await empty.client.response()).status == 502
        await kit.run_job(agent)


@needs_node
@pytest.mark.timeout(600)
async def test_a_cancelled_job_resumed_at_offset_zero_may_send_job_started_again() -> None:
    async with running_coordinator() as (target, _), CoordinatorUnderTest(target) as kit:
        agent = await kit.connect()
        job = await kit.start(agent)
        await job.client.disconnect()
        await agent.expect(Cancel, job.job_id)
        job.agent = agent = await kit.reconnect(agent, job.live())
        await job.start()
        await job.fail("cancelled")
        await kit.run_job(agent)


def test_the_example_is_one_file_of_less_than_400_lines() -> None:
    lines = (EXAMPLES / "coordinator.mjs").read_text("utf-8").splitlines()

    assert len(lines) < 400
    assert max(map(len, lines)) <= 100


def test_the_lock_file_names_no_registry() -> None:
    assert "://" not in (EXAMPLES / "package-lock.json").read_text("utf-8")
