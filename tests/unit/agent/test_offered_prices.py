"""Jobs of a running agent never cost the operator more than the price that was offered for them."""

import pytest
from msgspec import structs

from provider_agent.adapters.base import BackendHealth, Operation, Unreachable
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.config import Price, PricingConfig
from provider_agent.protocol.frames import Capabilities, JobResult, ModelOffer
from tests.kit.agent_config import agent_config
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend, model
from tests.kit.scripted_coordinator import AgentConnection, ScriptedCoordinator
from tests.kit.virtual_time import in_virtual_time

CHEAP = PricingConfig(default_input_per_1m=1, default_output_per_1m=2)


CHAT = frozenset({Operation.CHAT})


def local(max_concurrent: int = 1) -> ScriptedBackend:
    return ScriptedBackend("local", model(operations=CHAT), max_concurrent=max_concurrent)


def remote() -> ScriptedBackend:
    return ScriptedBackend("remote", model(native=False, prices=(30, 60)))


async def offered(peer: AgentConnection) -> ModelOffer:
    (offer,) = (await peer.next(Capabilities)).models
    return offer


@in_virtual_time
async def test_no_job_of_a_local_model_goes_to_a_passthrough_with_the_same_id() -> None:
    # In an earlier version, both were one offer at the local price. Jobs above the local capacity,
    # jobs that failed over and all Anthropic jobs ran on the passthrough.
    here, there = local(), remote()
    async with ScriptedCoordinator() as coordinator:
        config = agent_config(coordinator.url, pricing=CHEAP)
        async with RunningAgent(coordinator, there, here, config=config) as agent:
            peer = await agent.connected()
            offer = await offered(peer)
            assert (offer.native, offer.operations, offer.max_concurrent) == (True, ["chat"], 1)
            assert (offer.input_price_per_1m, offer.output_price_per_1m) == (1, 2)
            failing = new_job(deadline_ms=3_600_000)
            full, messages = new_job(), new_job(wire_format="anthropic")
            await peer.send_jobs(failing, full, messages)
            assert (await peer.error(full.job_id)).code == "out_of_capacity"
            assert (await peer.error(messages.job_id)).code == "format_not_supported"
            here.reported_health = BackendHealth(False, None, "gone")
            assert not (await offered(peer)).native
            (await here.next_run()).fail(Unreachable("refused"))
            assert (await peer.error(failing.job_id)).code == "backend_unreachable"
            assert there.runs == []


@in_virtual_time
async def test_the_log_says_once_that_a_passthroughs_model_is_not_offered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    here, there = local(), remote()
    async with ScriptedCoordinator() as coordinator:
        config = agent_config(coordinator.url, pricing=CHEAP)
        async with RunningAgent(coordinator, here, there, config=config) as agent:
            peer = await agent.connected()
            await offered(peer)
            here.reported_models = [model("m", operations=CHAT), model("n")]
            assert len((await peer.next(Capabilities)).models) == 2
    (fields,) = [vars(one)["fields"] for one in caplog.records if one.message == "offer warning"]
    assert fields["target"] == "m"
    assert "not offered by remote: local offers the same id" in fields["reason"]


@in_virtual_time
async def test_a_passthrough_offers_the_model_at_its_own_price_while_no_local_server_has_it() -> (
    None
):
    here, there = local(), remote()
    async with ScriptedCoordinator() as coordinator:
        config = agent_config(coordinator.url, pricing=CHEAP)
        async with RunningAgent(coordinator, here, there, config=config) as agent:
            peer = await agent.connected()
            assert (await offered(peer)).native
            here.reported_health = BackendHealth(False, None, "gone")
            offer = await offered(peer)
            assert (offer.native, offer.input_price_per_1m) == (False, 30)
            job = new_job(wire_format="anthropic")
            await peer.send_jobs(job)
            (await there.next_run()).answer(b"x")
            end = await peer.end(job.job_id)
            assert isinstance(end, JobResult)
            assert (end.input_price_per_1m, end.output_price_per_1m) == (30, 60)


@in_virtual_time
async def test_overflow_runs_on_the_passthrough_at_the_higher_price() -> None:
    here, there = local(), remote()
    async with ScriptedCoordinator() as coordinator:
        config = agent_config(coordinator.url, pricing=CHEAP)
        async with RunningAgent(
            coordinator, here, there, config=config, overflow=["remote"]
        ) as agent:
            peer = await agent.connected()
            offer = await offered(peer)
            assert (offer.native, offer.operations) == (False, ["chat", "messages"])
            assert (offer.input_price_per_1m, offer.output_price_per_1m) == (30, 60)
            first, second = new_job(), new_job()
            await peer.send_jobs(first, second)
            (await here.next_run()).answer(b"x")
            (await there.next_run()).answer(b"x")
            for job in (first, second):
                end = await peer.end(job.job_id)
                assert isinstance(end, JobResult)
                assert end.input_price_per_1m == 30


@in_virtual_time
async def test_a_reload_of_prices_and_overflow_changes_the_offer_and_the_routes() -> None:
    here, there = local(), remote()
    async with ScriptedCoordinator() as coordinator:
        config = agent_config(coordinator.url, pricing=CHEAP)
        async with RunningAgent(coordinator, here, there, config=config) as agent:
            peer = await agent.connected()
            await offered(peer)
            pricing = PricingConfig(models={"m": Price(40, 70)})
            agent.service.reload(
                structs.replace(config, pricing=pricing),
                Backends([here, there], {}, [], overflow={"remote"}),
            )
            offer = await offered(peer)
            assert (offer.native, offer.input_price_per_1m) == (False, 40)
            job = new_job(wire_format="anthropic")
            await peer.send_jobs(job)
            (await there.next_run()).answer(b"x")
            assert isinstance(await peer.end(job.job_id), JobResult)


@pytest.mark.parametrize("raised", [(31, 60), (30, 61)])
@in_virtual_time
async def test_a_job_does_not_run_on_a_passthrough_that_has_become_more_expensive(
    raised: tuple[int, int],
) -> None:
    there = remote()
    async with ScriptedCoordinator() as coordinator, RunningAgent(coordinator, there) as agent:
        peer = await agent.connected()
        await offered(peer)
        job = new_job(deadline_ms=3_600_000)
        await peer.send_jobs(job)
        run = await there.next_run()
        there.reported_models = [model(native=False, prices=raised)]
        assert (await offered(peer)).input_price_per_1m == raised[0]
        run.fail(Unreachable("refused"))
        assert (await peer.error(job.job_id)).code == "backend_unreachable"
        assert there.runs == [run]


@in_virtual_time
async def test_a_passthroughs_model_without_a_price_is_not_offered_and_runs_no_job() -> None:
    there = ScriptedBackend("remote", model(native=False))
    async with ScriptedCoordinator() as coordinator:
        config = agent_config(coordinator.url, pricing=CHEAP)
        async with RunningAgent(coordinator, there, config=config) as agent:
            peer = await agent.connected()
            assert (await peer.next(Capabilities)).models == []
            job = new_job()
            await peer.send_jobs(job)
            assert (await peer.error(job.job_id)).code == "model_not_loaded"
