import asyncio

import pytest

from provider_agent.agent.config import LimitsConfig
from provider_agent.agent.jobs.slow_consumers import SlowConsumers
from provider_agent.protocol.frames import Ack, JobResult, JobStarted, Usage
from provider_agent.protocol.limits import MIN_WINDOW_BYTES
from provider_agent.protocol.send_stream import SendStream
from tests.kit.agent_config import agent_config
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.scripted_coordinator import ScriptedCoordinator, welcome
from tests.kit.virtual_time import in_virtual_time, now

LIMIT_S = 60.0
JOB = b"j" * 16
WINDOW = 100


def stream(written: int, *, ended: bool = False) -> SendStream:
    """A stream that has sent everything that its window allows."""
    sending = SendStream(JOB, WINDOW)
    sending.start(JobStarted(JOB, 200, "text/plain", "b"))
    sending.write(b"x" * written)
    if ended:
        sending.finish(JobResult(JOB, sending.written, Usage(None, None), "b", 1, None))
    while sending.ready:
        sending.next_frames()
    return sending


@pytest.mark.parametrize(
    ("sending", "is_stalled"),
    [
        (stream(0), False),
        (stream(WINDOW // 2), False),
        (stream(WINDOW // 2 + 1), True),
        (stream(WINDOW), True),
        (stream(WINDOW + 1), True),
        (stream(1, ended=True), True),
        (stream(WINDOW + 1, ended=True), True),
    ],
)
def test_stream_stalls_only_above_half_of_its_window_or_with_an_unacknowledged_end(
    sending: SendStream, is_stalled: bool
) -> None:
    slow = SlowConsumers()
    assert slow.stalled([sending], 0.0, LIMIT_S) == []
    assert slow.stalled([sending], LIMIT_S - 0.1, LIMIT_S) == []
    assert slow.stalled([sending], LIMIT_S, LIMIT_S) == ([sending] if is_stalled else [])


def test_any_progress_of_a_stream_restarts_its_time_limit() -> None:
    sending = stream(3 * WINDOW)
    slow = SlowConsumers()
    slow.stalled([sending], 0.0, LIMIT_S)
    sending.acknowledge(1, final=False)
    assert slow.stalled([sending], LIMIT_S, LIMIT_S) == []
    sending.next_frames()  # sent bytes are progress, even if none are acknowledged
    assert slow.stalled([sending], 2 * LIMIT_S, LIMIT_S) == []
    assert slow.stalled([sending], 3 * LIMIT_S, LIMIT_S) == [sending]


def test_consumer_that_stops_before_its_paused_source_resumes_is_stalled() -> None:
    # In an earlier version, only a full window counted: the source stayed paused for ever.
    sending = stream(WINDOW)
    slow = SlowConsumers()
    sending.acknowledge(WINDOW // 4, final=False)
    assert not sending.below_low_water, "the source is still paused"
    slow.stalled([sending], 0.0, LIMIT_S)
    assert slow.stalled([sending], LIMIT_S, LIMIT_S) == [sending]


def test_time_without_a_link_does_not_count_as_stalled() -> None:
    sending = stream(WINDOW)
    slow = SlowConsumers()
    slow.stalled([sending], 0.0, LIMIT_S)
    slow.reset()
    assert slow.stalled([sending], LIMIT_S, LIMIT_S) == []


@in_virtual_time
async def test_an_undetected_link_failure_is_not_a_slow_consumer() -> None:
    # In an earlier version, the job ended with `slow_consumer` if the limit was shorter than two
    # ping intervals.
    backend = ScriptedBackend()
    reply = welcome(window_bytes=MIN_WINDOW_BYTES, resume_ms=60_000)
    async with ScriptedCoordinator(lambda _: reply) as coordinator:
        coordinator.resumes = True
        config = agent_config(coordinator.url, limits=LimitsConfig(slow_consumer_s=10.0))
        async with RunningAgent(coordinator, backend, config=config) as agent:
            peer = await agent.connected()
            peer.acknowledges = False
            job = new_job(deadline_ms=3_600_000)
            await peer.send_jobs(job)
            run = await backend.next_run()
            run.start()
            run.send(b"x" * MIN_WINDOW_BYTES)
            await peer.wait_for_bytes(job.job_id, MIN_WINDOW_BYTES)
            peer.stop_reading()
            next_peer = await agent.connected()
            run.finish()
            assert isinstance(await next_peer.end(job.job_id), JobResult)


@in_virtual_time
async def test_a_stalled_consumer_fails_only_its_own_job() -> None:
    backend = ScriptedBackend()
    reply = welcome(window_bytes=MIN_WINDOW_BYTES)
    limits = LimitsConfig(slow_consumer_s=20.0)
    async with ScriptedCoordinator(lambda _: reply) as coordinator:
        config = agent_config(coordinator.url, limits=limits)
        async with RunningAgent(coordinator, backend, config=config) as agent:
            peer = await agent.connected()
            peer.acknowledges = False
            stalled, healthy = new_job(deadline_ms=3_600_000), new_job(deadline_ms=3_600_000)
            await peer.send_jobs(stalled, healthy)
            stalled_run, healthy_run = await backend.next_run(), await backend.next_run()
            for run in (stalled_run, healthy_run):
                run.start()
                run.send(b"x" * (MIN_WINDOW_BYTES + 1))
            began = now()
            for count in range(1, 10):
                await asyncio.sleep(5)
                await peer.send(Ack(healthy.job_id, count))
            error = await peer.error(stalled.job_id)
            assert error.code == "slow_consumer"
            assert error.total_bytes == MIN_WINDOW_BYTES, "unsent bytes are dropped"
            assert stalled_run.cancelled.is_set()
            assert 20 <= now() - began <= 50
            await peer.send(Ack(healthy.job_id, MIN_WINDOW_BYTES))
            healthy_run.finish()
            assert isinstance(await peer.end(healthy.job_id), JobResult)


@in_virtual_time
async def test_a_finished_job_with_a_stalled_consumer_is_forgotten() -> None:
    backend = ScriptedBackend()
    reply = welcome(window_bytes=MIN_WINDOW_BYTES)
    async with (
        ScriptedCoordinator(lambda _: reply) as coordinator,
        RunningAgent(coordinator, backend) as agent,
    ):
        peer = await agent.connected()
        peer.acknowledges = False
        job = new_job()
        await peer.send_jobs(job)
        (await backend.next_run()).answer(b"x" * (MIN_WINDOW_BYTES + 1))
        assert (await peer.error(job.job_id)).code == "slow_consumer"
        # The coordinator does not acknowledge that end either; the agent then forgets the job.
        await agent.service.outbox.wait_until_acknowledged()
        assert len(peer.ends(job.job_id)) == 1
