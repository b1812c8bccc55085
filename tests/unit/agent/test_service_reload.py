"""A running agent applies new settings; running jobs continue."""

import asyncio
from pathlib import Path

import pytest
from msgspec import structs

from provider_agent.adapters.base import Backend, Unreachable
from provider_agent.agent.backends.configured import Backends, SkippedBackend
from provider_agent.agent.config import (
    Config,
    CoordinatorConfig,
    DiscoveryConfig,
    LimitsConfig,
    ObservabilityConfig,
    OperatorConfig,
    Price,
    PricingConfig,
)
from provider_agent.agent.link.advertiser import DEBOUNCE_S
from provider_agent.agent.reload.effects import Reload
from provider_agent.agent.service import EXIT_UNDELIVERED
from provider_agent.protocol.frames import (
    BackendLoad,
    Capabilities,
    Draining,
    Heartbeat,
    Hello,
    JobError,
    JobResult,
    JobStarted,
    ModelLoad,
)
from tests.kit.agent_config import agent_config
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend, ScriptedRun, model
from tests.kit.scripted_coordinator import AgentConnection, ScriptedCoordinator, welcome
from tests.kit.virtual_time import in_virtual_time, now


def reload(
    agent: RunningAgent, *backends: Backend, config: Config | None = None, **tokens_per_minute: int
) -> Reload:
    """Reload with these backends, and with `tokens_per_minute` by backend id."""
    old = agent.service.backends
    return agent.service.reload(
        config or agent_config(agent.service.uplink.config.url),
        Backends(list(backends), old.markups, old.skipped, tokens_per_minute),
    )


def offered(frame: Capabilities) -> list[str]:
    return [one.model_id for one in frame.models]


async def start(
    peer: AgentConnection, backend: ScriptedBackend, model_id: str = "m"
) -> ScriptedRun:
    """Send a job, and start its response."""
    await peer.send_jobs(new_job(model_id))
    run = await backend.next_run()
    run.start()
    return run


# --- backends -------------------------------------------------------------------------------------


@in_virtual_time
async def test_new_backend_is_offered_and_receives_jobs() -> None:
    first, second = ScriptedBackend("a", model("m")), ScriptedBackend("b", model("n"))
    async with ScriptedCoordinator() as coordinator, RunningAgent(coordinator, first) as agent:
        peer = await agent.connected()
        assert offered(await peer.next(Capabilities)) == ["m"]
        assert reload(agent, second, first).applied == ("backends",)
        assert offered(await peer.next(Capabilities)) == ["n", "m"]
        run = await start(peer, second, "n")
        run.send(b"new")
        run.finish()
        assert isinstance(await peer.end(run.job.job_id), JobResult)
        assert [one.id for one in agent.service.status().backends] == ["b", "a"]


@in_virtual_time
async def test_removed_backend_is_closed_after_its_jobs_have_finished() -> None:
    backend, other = ScriptedBackend("a", model("m")), ScriptedBackend("b", model("n"))
    async with (
        ScriptedCoordinator() as coordinator,
        RunningAgent(coordinator, backend, other) as agent,
    ):
        peer = await agent.connected()
        await peer.next(Capabilities)
        run = await start(peer, backend)
        reload(agent, other)
        late = new_job("m")
        await peer.send_jobs(late)
        assert (await peer.error(late.job_id)).code == "model_not_loaded"
        assert offered(await peer.next(Capabilities)) == ["n"]
        await asyncio.sleep(50)
        assert not backend.closed
        run.send(b"whole")
        run.finish()
        assert isinstance(await peer.end(run.job.job_id), JobResult)
        assert bytes(peer.data[run.job.job_id]) == b"whole"
        await asyncio.sleep(1)
        assert (backend.closed, other.closed) == (True, False)


@in_virtual_time
async def test_changed_backend_receives_new_jobs_while_the_old_one_finishes_its_own() -> None:
    old = ScriptedBackend("a", model("m"), max_concurrent=1)
    new = ScriptedBackend("a#2", model("m"), max_concurrent=3)
    answer = welcome(heartbeat_ms=5_000)
    async with (
        ScriptedCoordinator(lambda _: answer) as coordinator,
        RunningAgent(coordinator, old) as agent,
    ):
        peer = await agent.connected()
        running = await start(peer, old)
        assert agent.service.busy_ids == {"a"}
        reload(agent, new)
        await asyncio.sleep(6)
        runs = [await start(peer, new) for _ in range(3)]
        await asyncio.sleep(5)
        beats = [frame for frame in peer.frames if isinstance(frame, Heartbeat)]
        assert beats[-1].in_flight == 4
        models = [ModelLoad("m", "", 3)]
        assert beats[-1].backends == [BackendLoad("a#2", True, 3, 3, models=models)]
        for run in (running, *runs):
            run.finish()
            assert isinstance(await peer.end(run.job.job_id), JobResult)
        ids = [frame.backend_id for frame in peer.frames if isinstance(frame, JobStarted)]
        assert ids == ["a", "a#2", "a#2", "a#2"]


@in_virtual_time
async def test_job_on_a_removed_backend_fails_over_to_a_configured_one() -> None:
    old, new = ScriptedBackend("a", model("m")), ScriptedBackend("a#2", model("m"))
    async with ScriptedCoordinator() as coordinator, RunningAgent(coordinator, old) as agent:
        peer = await agent.connected()
        await peer.next(Capabilities)
        failing_over, failing = new_job("m"), new_job("m")
        await peer.send_jobs(failing_over, failing)
        first, second = await old.next_run(), await old.next_run()
        reload(agent, new)
        await peer.next(Capabilities)
        first.fail(Unreachable("gone"))
        (await new.next_run()).answer(b"elsewhere")
        assert isinstance(await peer.end(failing_over.job_id), JobResult)
        second.start()
        second.fail(Unreachable("gone"))
        assert (await peer.error(failing.job_id)).code == "backend_unreachable"
        assert agent.service.status().backends[0].healthy
        assert old.closed


@in_virtual_time
async def test_unchanged_backend_is_neither_checked_nor_closed() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with ScriptedCoordinator() as coordinator, RunningAgent(coordinator, backend) as agent:
        peer = await agent.connected()
        run = await start(peer, backend)
        checks_before = backend.checks
        reload(agent, ScriptedBackend("b", model("n")), backend)
        reload(agent, backend)
        await asyncio.sleep(20)
        assert (backend.checks, backend.closed) == (checks_before, False)
        run.finish()
        assert isinstance(await peer.end(run.job.job_id), JobResult)


@pytest.mark.parametrize("signals", [1, 2])
@in_virtual_time
async def test_stop_ends_jobs_on_removed_backends_and_closes_all_backends(signals: int) -> None:
    removed, used = ScriptedBackend("a", model("m")), ScriptedBackend("b", model("n"))
    async with (
        ScriptedCoordinator() as coordinator,
        RunningAgent(coordinator, removed, used) as agent,
    ):
        peer = await agent.connected()
        run = await start(peer, removed)
        reload(agent, used)
        await asyncio.sleep(1)
        for _ in range(signals):
            agent.service.stop()
        if signals == 1:
            await asyncio.sleep(5)
            assert not agent.task.done()
            run.finish()
        await agent.task
        (end,) = peer.ends(run.job.job_id)
        assert isinstance(end, JobResult if signals == 1 else JobError)
        assert (removed.closed, used.closed) == (True, True)


@in_virtual_time
async def test_token_limit_of_an_unchanged_backend_can_change() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with ScriptedCoordinator() as coordinator, RunningAgent(coordinator, backend) as agent:
        peer = await agent.connected()
        run = await start(peer, backend)
        reload(agent, backend, a=10)
        run.finish(input_tokens=60, output_tokens=0)
        await peer.end(run.job.job_id)
        late = new_job("m")
        await peer.send_jobs(late)
        assert (await peer.error(late.job_id)).retry_after_ms == 306_000
        reload(agent, backend)
        assert isinstance(await start(peer, backend), ScriptedRun)


# --- other settings ------------------------------------------------------------------------------


@in_virtual_time
async def test_changed_metadata_limits_and_prices_are_advertised() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with ScriptedCoordinator() as coordinator, RunningAgent(coordinator, backend) as agent:
        peer = await agent.connected()
        await peer.next(Capabilities)
        config = agent_config(
            coordinator.url,
            operator=OperatorConfig(display_name="rig"),
            pricing=PricingConfig(models={"m": Price(3, 4)}),
            limits=LimitsConfig(max_concurrent=2, max_tokens_per_minute=100),
        )
        began = now()
        reload(agent, backend, config=config)
        frame = await peer.next(Capabilities)
        assert now() - began == pytest.approx(DEBOUNCE_S)
        assert frame.metadata == {"display_name": "rig"}
        assert (frame.limits.max_concurrent, frame.limits.max_tokens_per_minute) == (2, 100)
        assert (frame.models[0].input_price_per_1m, frame.models[0].output_price_per_1m) == (3, 4)


@in_virtual_time
async def test_lower_job_limit_cancels_no_running_job() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with ScriptedCoordinator() as coordinator, RunningAgent(coordinator, backend) as agent:
        peer = await agent.connected()
        runs = [await start(peer, backend) for _ in range(3)]
        limits = LimitsConfig(max_concurrent=2)
        reload(agent, backend, config=agent_config(coordinator.url, limits=limits))
        late = new_job("m")
        await peer.send_jobs(late)
        assert (await peer.error(late.job_id)).code == "out_of_capacity"
        for run in runs:
            run.finish()
            assert isinstance(await peer.end(run.job.job_id), JobResult)
        await start(peer, backend)


@in_virtual_time
async def test_tokens_consumed_under_the_old_limit_count_under_the_new_one() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with ScriptedCoordinator() as coordinator:

        def limited(tokens: int) -> Config:
            limits = LimitsConfig(max_tokens_per_minute=tokens)
            return agent_config(coordinator.url, limits=limits)

        async with RunningAgent(coordinator, backend, config=limited(60)) as agent:
            peer = await agent.connected()
            run = await start(peer, backend)
            run.finish(input_tokens=120, output_tokens=0)
            await peer.end(run.job.job_id)
            reload(agent, backend, config=limited(600))
            late = new_job("m")
            await peer.send_jobs(late)
            assert (await peer.error(late.job_id)).retry_after_ms == 6_100


@in_virtual_time
async def test_drain_uses_the_timeout_that_is_effective_when_it_starts() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with ScriptedCoordinator() as coordinator, RunningAgent(coordinator, backend) as agent:
        peer = await agent.connected()
        await start(peer, backend)
        limits = LimitsConfig(drain_timeout_s=7)
        reload(agent, backend, config=agent_config(coordinator.url, limits=limits))
        began = now()
        agent.service.stop()
        assert (await peer.next(Draining)).deadline_ms == 7_000
        assert await agent.task == EXIT_UNDELIVERED
        assert now() - began == pytest.approx(7, abs=0.5)


@in_virtual_time
async def test_new_check_interval_takes_effect_without_waiting_for_the_old_one() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with ScriptedCoordinator() as coordinator, RunningAgent(coordinator, backend) as agent:
        await agent.connected()
        discovery = DiscoveryConfig(interval_s=5)
        reload(agent, backend, config=agent_config(coordinator.url, discovery=discovery))
        await asyncio.sleep(21)
        assert [at - backend.checked_at[0] for at in backend.checked_at] == [0, 2, 7, 12, 17]


@in_virtual_time
async def test_live_link_is_kept_and_the_next_one_uses_the_new_address() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with (
        ScriptedCoordinator() as first,
        ScriptedCoordinator() as second,
        RunningAgent(first, backend) as agent,
    ):
        peer = await agent.connected()
        coordinator = CoordinatorConfig(url=second.url, enrollment_code="new-code")
        config = agent_config(second.url, coordinator=coordinator)
        result = reload(agent, backend, config=config)
        assert result.next_connection == ("coordinator.url", "coordinator.enrollment_code")
        assert result.applied == ()
        await asyncio.sleep(100)
        assert not peer.closed.is_set()
        peer.cut()
        hello = await (await second.next_connection()).next(Hello)
        assert hello.enrollment_code == "new-code"
        assert len(first.connections) == 1


@in_virtual_time
async def test_unchanged_settings_are_not_advertised_again() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with ScriptedCoordinator() as coordinator, RunningAgent(coordinator, backend) as agent:
        peer = await agent.connected()
        await peer.next(Capabilities)
        assert reload(agent, backend).changes_nothing
        await asyncio.sleep(30)
        assert [type(frame) for frame in peer.frames].count(Capabilities) == 1


@in_virtual_time
async def test_settings_that_need_a_restart_are_reported_on_every_reload() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with ScriptedCoordinator() as coordinator, RunningAgent(coordinator, backend) as agent:
        await agent.connected()
        config = structs.replace(
            agent_config(coordinator.url, key_path=Path("other")),
            observability=ObservabilityConfig(prometheus_addr="", log_format="json"),
        )
        for _ in range(2):
            result = reload(agent, backend, config=config)
            assert result.needs_restart == ("identity.key_path", "observability.log_format")


@in_virtual_time
async def test_backend_whose_api_key_disappeared_is_shown_with_the_reason() -> None:
    backend = ScriptedBackend("venice", model("m"))
    async with ScriptedCoordinator() as coordinator, RunningAgent(coordinator, backend) as agent:
        await agent.connected()
        skipped = SkippedBackend("venice", "venice", "the file k (api_key_file) is empty")
        config = agent_config(coordinator.url)
        assert agent.service.reload(config, Backends([], {}, [skipped])).applied == ("backends",)
        (shown,) = agent.service.status().backends
        assert (shown.healthy, shown.last_error) == (False, f"skipped: {skipped.reason}")
        await asyncio.sleep(1)
        assert backend.closed
