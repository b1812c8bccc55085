import asyncio

import pytest

from provider_agent.agent.backends.adapter_calls import CANCEL_S
from provider_agent.agent.config import LimitsConfig
from provider_agent.agent.jobs.drain import FLUSH_S
from provider_agent.agent.service import EXIT_FORCED, EXIT_OK, EXIT_UNDELIVERED
from provider_agent.agent.telemetry.status import readiness
from provider_agent.protocol.frames import (
    Draining,
    JobResult,
)
from tests.kit.agent_config import agent_config
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend, model
from tests.kit.scripted_coordinator import ScriptedCoordinator
from tests.kit.virtual_time import in_virtual_time, now


@in_virtual_time
async def test_first_stop_drains() -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"))
        limits = LimitsConfig(max_concurrent=2, drain_timeout_s=120.0)
        config = agent_config(coordinator.url, limits=limits)
        async with RunningAgent(coordinator, backend, config=config) as agent:
            peer = await agent.connected()
            job, late = new_job(), new_job()
            await peer.send_jobs(job)
            run = await backend.next_run()
            agent.service.stop()
            assert await peer.next(Draining) == Draining(120_000)
            assert readiness(agent.service.status())[0].startswith("draining")
            await peer.send_jobs(late)
            assert (await peer.error(late.job_id)).code == "draining"
            await asyncio.sleep(50)
            run.answer(b"all of it")
            assert await agent.task == EXIT_OK
            assert isinstance(await peer.end(job.job_id), JobResult)
            assert bytes(peer.data[job.job_id]) == b"all of it"
            await peer.closed.wait()
            assert peer.socket.close_code == 1000
            assert backend.closed
            assert agent.service.status().link == "stopped"


@in_virtual_time
async def test_jobs_that_exceed_the_drain_timeout_end_with_the_code_draining(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # In an earlier version, the exit code was 0, because the ends of the truncated responses were
    # acknowledged.
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"))
        limits = LimitsConfig(max_concurrent=2, drain_timeout_s=30.0)
        config = agent_config(coordinator.url, limits=limits)
        async with RunningAgent(coordinator, backend, config=config) as agent:
            peer = await agent.connected()
            job = new_job(deadline_ms=3_600_000)
            await peer.send_jobs(job)
            run = await backend.next_run()
            began = now()
            agent.service.stop()
            assert await agent.task == EXIT_UNDELIVERED
            assert now() - began == pytest.approx(30)
            assert (await peer.error(job.job_id)).code == "draining"
            assert run.cancelled.is_set()
            (logged,) = [one for one in caplog.records if one.message == "jobs not delivered"]
            assert vars(logged)["fields"]["stopped"] == 1


@in_virtual_time
async def test_second_stop_cancels_jobs_and_still_sends_their_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # In an earlier version, the ends were put into the outbox after the connection had been closed.
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"))
        async with RunningAgent(coordinator, backend) as agent:
            peer = await agent.connected()
            jobs = [new_job(), new_job()]
            await peer.send_jobs(*jobs)
            await backend.next_run()
            began = now()
            agent.service.stop()
            await peer.next(Draining)
            agent.service.stop()
            assert await agent.task == EXIT_FORCED
            assert now() == began
            for job in jobs:
                assert (await peer.error(job.job_id)).code == "draining"
            assert backend.closed
            (logged,) = [one for one in caplog.records if one.message == "jobs not delivered"]
            fields = {"stopped": 2, "cut": 0, "lost": 0, "unacknowledged": 0}
            assert vars(logged)["fields"] == fields


@in_virtual_time
async def test_missing_acknowledgements_do_not_keep_the_agent_running() -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"))
        limits = LimitsConfig(drain_timeout_s=20.0)
        config = agent_config(coordinator.url, limits=limits)
        async with RunningAgent(coordinator, backend, config=config) as agent:
            peer = await agent.connected()
            peer.acknowledges = False
            job = new_job()
            await peer.send_jobs(job)
            (await backend.next_run()).answer(b"x")
            await peer.end(job.job_id)
            began = now()
            agent.service.stop()
            assert await agent.task == EXIT_UNDELIVERED
            assert now() - began == pytest.approx(20.0 + FLUSH_S)


@in_virtual_time
async def test_adapter_that_ignores_cancellation_does_not_keep_the_agent_running(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # In an earlier version, the agent waited for such an adapter twice and logged two events, and
    # the job had no end.
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"))
        backend.hold_cancel = asyncio.Event()
        async with RunningAgent(coordinator, backend) as agent:
            peer = await agent.connected()
            job = new_job(deadline_ms=3_600_000)
            await peer.send_jobs(job)
            run = await backend.next_run()
            agent.service.stop()
            await peer.next(Draining)
            began = now()
            agent.service.stop()
            assert await agent.task == EXIT_FORCED
            assert now() - began == pytest.approx(CANCEL_S)
            assert (await peer.error(job.job_id)).code == "draining"
        assert caplog.messages.count("adapter ignored cancellation") == 1
        (task,) = [one for one in asyncio.all_tasks() if one.get_name().startswith("job ")]
        run.start()
        run.send(b"too late")
        backend.hold_cancel.set()
        await asyncio.wait({task})


@in_virtual_time
async def test_cancelling_the_agent_during_a_drain_leaves_no_task() -> None:
    # In an earlier version, the task that waits for a second signal outlived the agent.
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"))
        async with RunningAgent(coordinator, backend) as agent:
            peer = await agent.connected()
            await peer.send_jobs(new_job(deadline_ms=3_600_000))
            run = await backend.next_run()
            agent.service.stop()
            await peer.next(Draining)
            agent.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await agent.task
            assert run.cancelled.is_set()


@in_virtual_time
async def test_stopping_while_not_connected_is_immediate() -> None:
    async with ScriptedCoordinator() as coordinator:
        coordinator.refusals.append((503, {"Retry-After": "600"}))
        async with RunningAgent(coordinator, ScriptedBackend()) as agent:
            await asyncio.sleep(60)
            assert len(coordinator.upgrades) == 1
            began = now()
            agent.service.stop()
            assert await agent.task == EXIT_OK
            assert now() == began


@in_virtual_time
async def test_cancelling_the_agent_cancels_its_jobs_and_closes_everything() -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"))
        async with RunningAgent(coordinator, backend) as agent:
            peer = await agent.connected()
            await peer.send_jobs(new_job())
            run = await backend.next_run()
            agent.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await agent.task
            assert run.cancelled.is_set()
            assert backend.closed
            await peer.closed.wait()
