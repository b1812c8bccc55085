"""What a running agent reports about its backends, and which jobs the backends receive."""

import asyncio

import pytest

from provider_agent.adapters.base import BackendHealth, ServerLoad, Unreachable
from provider_agent.agent.config import DiscoveryConfig, LimitsConfig
from provider_agent.agent.link.advertiser import DEBOUNCE_S
from provider_agent.agent.service import EXIT_OK
from provider_agent.agent.telemetry.status import readiness
from provider_agent.protocol.frames import (
    BackendLoad,
    Capabilities,
    Heartbeat,
    JobError,
    JobResult,
    JobStarted,
    ModelLoad,
)
from tests.kit.agent_config import agent_config
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend, model
from tests.kit.scripted_coordinator import AgentConnection, ScriptedCoordinator, welcome
from tests.kit.virtual_time import in_virtual_time, now

OPEN_S = 10.0
"""How long a breaker with the default settings stays open the first time."""


def offers(peer: AgentConnection) -> list[list[str]]:
    """The models of every `Capabilities` so far."""
    return [
        [model.model_id for model in frame.models]
        for frame in peer.frames
        if isinstance(frame, Capabilities)
    ]


def last_load(peer: AgentConnection) -> BackendLoad:
    """The load of the first backend in the last heartbeat."""
    beats = [frame for frame in peer.frames if isinstance(frame, Heartbeat)]
    return beats[-1].backends[0]


def pending(agent: RunningAgent) -> bool:
    """Whether changed capabilities wait to be sent."""
    return agent.service.advertiser.pending


@in_virtual_time
async def test_capabilities_are_sent_once_after_welcome() -> None:
    async with ScriptedCoordinator() as coordinator:
        began = now()
        async with RunningAgent(coordinator, ScriptedBackend("a", model("m"))) as agent:
            peer = await agent.connected()
            await peer.next(Capabilities)
            assert now() == began
            await asyncio.sleep(10 * DEBOUNCE_S)
            assert offers(peer) == [["m"]]


@in_virtual_time
async def test_changes_within_the_debounce_time_are_sent_together() -> None:
    backends = [ScriptedBackend(name, model(name)) for name in "abc"]
    async with ScriptedCoordinator() as coordinator, RunningAgent(coordinator, *backends) as agent:
        peer = await agent.connected()
        await peer.next(Capabilities)
        backends[0].reported_models = [model("a2")]
        backends[1].reported_health = BackendHealth(False, None, "gone")
        backends[2].reported_models = [model("c"), model("c2")]
        offered = await peer.next(Capabilities)
        assert offered.revision == 2
        await asyncio.sleep(30)
        assert offers(peer)[1:] == [["a2", "c", "c2"]]


@in_virtual_time
async def test_unchanged_models_are_not_sent_again() -> None:
    backend = ScriptedBackend("a", model("m"))
    backend.reported_load = ServerLoad(running=1)
    async with ScriptedCoordinator() as coordinator, RunningAgent(coordinator, backend) as agent:
        peer = await agent.connected()
        for busy in range(10):
            backend.reported_load = ServerLoad(running=busy)
            backend.reported_health = BackendHealth(True, float(busy))
            await asyncio.sleep(60)
        assert offers(peer) == [["m"]]


@in_virtual_time
async def test_changes_without_a_link_are_sent_once_after_the_next_welcome() -> None:
    backend = ScriptedBackend("a", model("m"))
    discovery = DiscoveryConfig(interval_s=10.0)
    async with ScriptedCoordinator() as coordinator:
        coordinator.refusals.append((503, {"Retry-After": "100"}))
        config = agent_config(coordinator.url, discovery=discovery)
        async with RunningAgent(coordinator, backend, config=config) as agent:
            await asyncio.sleep(50)
            backend.reported_models = [model("n")]
            peer = await agent.connected()
            await asyncio.sleep(10)
            assert offers(peer) == [["n"]]


@pytest.mark.parametrize("interval_s", [5.0, 90.0])
@in_virtual_time
async def test_backends_are_checked_at_the_configured_interval(interval_s: float) -> None:
    backend = ScriptedBackend("a", model("m"))
    async with ScriptedCoordinator() as coordinator:
        config = agent_config(coordinator.url, discovery=DiscoveryConfig(interval_s=interval_s))
        async with RunningAgent(coordinator, backend, config=config) as agent:
            peer = await agent.connected()
            await peer.next(Capabilities)
            backend.reported_models = [model("n")]
            began = now()
            await peer.next(Capabilities)
            assert now() - began == pytest.approx(interval_s + DEBOUNCE_S)


@in_virtual_time
async def test_heartbeats_carry_the_load_that_servers_report() -> None:
    async with ScriptedCoordinator(lambda _: welcome(heartbeat_ms=15_000)) as coordinator:
        reporting, silent = ScriptedBackend("a"), ScriptedBackend("b")
        reporting.reported_load = ServerLoad(running=3, waiting=2, cache_used=0.5)
        async with RunningAgent(coordinator, reporting, silent) as agent:
            peer = await agent.connected()
            await peer.next(Heartbeat)
            assert (await peer.next(Heartbeat)).backends == [
                BackendLoad("a", True, 0, 8, running=3, waiting=2, cache_used=0.5),
                BackendLoad("b", True, 0, 8),
            ]
            reporting.reported_load = ServerLoad(running=-1, waiting=2**60)
            await asyncio.sleep(30)
            assert last_load(peer) == BackendLoad("a", True, 0, 8), (
                "invalid numbers do not end the link"
            )
            reporting.reported_health = BackendHealth(False, None, "gone")
            await asyncio.sleep(60)
            down = [ModelLoad("m", "down", 0)]
            assert last_load(peer) == BackendLoad("a", False, 0, 8, models=down)


@in_virtual_time
async def test_stopping_cancels_scheduled_capabilities() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with ScriptedCoordinator() as coordinator, RunningAgent(coordinator, backend) as agent:
        peer = await agent.connected()
        await peer.next(Capabilities)
        for number in range(5):
            job = new_job(request=b'{"seed":%d}' % number)
            await peer.send_jobs(job)
            (await backend.next_run()).fail(Unreachable("refused"))
            await peer.error(job.job_id)
        assert pending(agent)
        agent.service.stop()
        assert await agent.task == EXIT_OK
        assert not pending(agent)
        await peer.closed.wait()
        assert len(offers(peer)) == 1


@in_virtual_time
async def test_failing_backend_is_not_offered_while_its_breaker_is_open() -> None:
    failing, healthy = ScriptedBackend("a", model("m")), ScriptedBackend("b", model("n"))
    async with (
        ScriptedCoordinator() as coordinator,
        RunningAgent(coordinator, failing, healthy) as agent,
    ):
        peer = await agent.connected()
        await peer.next(Capabilities)
        began = now()
        for number in range(5):
            job = new_job("m", request=b'{"seed":%d}' % number)
            await peer.send_jobs(job)
            (await failing.next_run()).fail(Unreachable("refused"))
            assert (await peer.error(job.job_id)).code == "backend_unreachable"
        late = new_job("m")
        await peer.send_jobs(late)
        assert (await peer.error(late.job_id)).code == "model_not_loaded"
        status = agent.service.status()
        assert [one.healthy for one in status.backends] == [False, True]
        assert "breaker is open" in (status.backends[0].last_error or "")
        assert readiness(status) == []
        assert [one.model_id for one in (await peer.next(Capabilities)).models] == ["n"]
        assert now() - began == pytest.approx(DEBOUNCE_S)
        assert [one.model_id for one in (await peer.next(Capabilities)).models] == ["m", "n"]
        assert now() - began == pytest.approx(OPEN_S + DEBOUNCE_S)
        trial, second = new_job("m"), new_job("m")
        await peer.send_jobs(trial, second)
        assert (await peer.error(second.job_id)).code == "out_of_capacity"
        (await failing.next_run()).answer(b"recovered")
        assert isinstance(await peer.end(trial.job_id), JobResult)
        await asyncio.sleep(30)
        assert len(offers(peer)) == 3


@pytest.mark.parametrize("limited", ["backend", "agent"])
@in_virtual_time
async def test_tokens_per_minute_limit_jobs_and_refill(limited: str) -> None:
    backend = ScriptedBackend("a", model("m"))
    async with ScriptedCoordinator() as coordinator:
        tokens = 600 if limited == "agent" else None
        config = agent_config(coordinator.url, limits=LimitsConfig(max_tokens_per_minute=tokens))
        limits = {"a": 600} if limited == "backend" else {}
        async with RunningAgent(
            coordinator, backend, config=config, tokens_per_minute=limits
        ) as agent:
            peer = await agent.connected()
            used, refused, later = new_job(), new_job(), new_job()
            await peer.send_jobs(used)
            run = await backend.next_run()
            run.start()
            run.finish(input_tokens=600, output_tokens=99)
            await peer.end(used.job_id)
            await peer.send_jobs(refused)
            error = await peer.error(refused.job_id)
            assert (error.code, error.retry_after_ms) == ("out_of_capacity", 10_000)
            state = agent.service.status()
            assert state.token_limit_wait_s == (10 if limited == "agent" else 0)
            problem = "its limit of tokens per minute is used up: no jobs for 10 s"
            assert state.backends[0].last_error == (problem if limited == "backend" else None)
            assert offers(peer) == [["m"]], "the model stays offered"
            await asyncio.sleep(10)
            await peer.send_jobs(later)
            (await backend.next_run()).answer(b"x")
            assert isinstance(await peer.end(later.job_id), JobResult)


@in_virtual_time
async def test_backend_over_its_token_limit_is_skipped() -> None:
    first, second = ScriptedBackend("a", model("m")), ScriptedBackend("b", model("m"))
    async with (
        ScriptedCoordinator() as coordinator,
        RunningAgent(coordinator, first, second, tokens_per_minute={"a": 5}) as agent,
    ):
        peer = await agent.connected()
        for backend in (first, second):
            job = new_job()
            await peer.send_jobs(job)
            (await backend.next_run()).answer(b"x")
            await peer.end(job.job_id)


@in_virtual_time
async def test_end_carries_the_price_that_was_offered_when_the_job_arrived() -> None:
    backend = ScriptedBackend("a", model("m", prices=(5, 7)))
    async with ScriptedCoordinator() as coordinator, RunningAgent(coordinator, backend) as agent:
        peer = await agent.connected()
        offered = (await peer.next(Capabilities)).models[0]
        job = new_job(deadline_ms=3_600_000)
        await peer.send_jobs(job)
        run = await backend.next_run()
        backend.reported_models = [model("m", prices=(50, 70))]
        await asyncio.sleep(70)  # the next health check, and the next offer
        run.answer(b"x")
        end = await peer.end(job.job_id)
        assert isinstance(end, JobResult)
        prices = (end.input_price_per_1m, end.output_price_per_1m)
        assert prices == (offered.input_price_per_1m, offered.output_price_per_1m) == (5, 7)


@in_virtual_time
async def test_job_that_fails_over_counts_as_one_job() -> None:
    first, second = ScriptedBackend("a", model("m")), ScriptedBackend("b", model("m"))
    async with (
        ScriptedCoordinator() as coordinator,
        RunningAgent(coordinator, first, second) as agent,
    ):
        peer = await agent.connected()
        job = new_job()
        await peer.send_jobs(job)
        await asyncio.sleep(2)
        (await first.next_run()).fail(Unreachable("refused"))
        (await second.next_run()).answer(b"answer")
        end = await peer.end(job.job_id)
        assert isinstance(end, JobResult)
        assert (end.duration_ms, end.first_byte_ms) == (2000, 2000)
        assert bytes(peer.data[job.job_id]) == b"answer"
        await peer.settle()
        job_frames = [
            one for one in peer.frames if isinstance(one, JobStarted | JobResult | JobError)
        ]
        assert job_frames == [JobStarted(job.job_id, 200, "text/event-stream", "b"), end]
        stats = agent.service.status().stats
        assert stats.error_rate == 0.0
        assert stats.first_byte_p50_ms == pytest.approx(2000)
        ((labels, totals),) = agent.service.metrics.jobs.items()
        assert (labels, totals.jobs) == (("ok", "openai", "b", "scripted", "m"), 1)


class UnclosableBackend(ScriptedBackend):
    async def close(self) -> None:
        raise RuntimeError("a defect")


@in_virtual_time
async def test_failing_close_of_one_adapter_does_not_keep_others_open() -> None:
    other = ScriptedBackend("b")
    async with (
        ScriptedCoordinator() as coordinator,
        RunningAgent(coordinator, UnclosableBackend("a"), other) as agent,
    ):
        await agent.connected()
        agent.service.stop()
        assert await agent.task == EXIT_OK
        assert other.closed
