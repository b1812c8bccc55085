"""The agent is told to stop: SIGTERM ends in `Service.stop`."""

import asyncio

from provider_agent.agent.config import LimitsConfig
from provider_agent.agent.service import EXIT_OK, EXIT_REFUSED
from provider_agent.protocol.frames import Draining, JobError, JobResult
from tests.faults.scenarios.clients import Purchase
from tests.faults.scenarios.harness import MAX_CONCURRENT, ScenarioHarness, harness, until
from tests.faults.scenarios.numbered_server import Order
from tests.faults.scenarios.scenario import Effort
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.scripted_coordinator import ScriptedCoordinator
from tests.kit.virtual_time import now

DRAIN_S = 300.0


async def agent_stops_with_jobs_of_different_lengths(effort: Effort) -> str:
    """All finish; a job that comes meanwhile goes to another agent."""
    async with harness(effort.dice("stop"), limits=_limits(DRAIN_S)) as play:
        purchases = await _streaming(play, effort.streams // 2)
        stopping = play.agents[0]
        second = await play.add_agent()
        await play.offers(2)
        stopping.service.stop()
        late = [play.clients.buy(Order(f"late-{n}", 5, 300)) for n in range(4)]
        for purchase in [*late, *purchases]:
            (await purchase.done()).check_complete(play.server)
        assert await stopping.task == EXIT_OK
        assert not second.task.done()
        await play.idle()
    return f"{len(purchases)} finished, {len(late)} new ones elsewhere, exit code 0"


async def agent_stops_while_the_link_is_down(effort: Effort) -> str:
    """It waits for the link, resumes, finishes everything, and leaves."""
    async with harness(effort.dice("stop down"), limits=_limits(DRAIN_S)) as play:
        purchases = await _streaming(play, effort.streams // 2)
        play.link.refuse()
        play.link.cut()
        await asyncio.sleep(5)
        play.service.stop()
        await asyncio.sleep(20)
        play.link.listen()
        for purchase in purchases:
            (await purchase.done()).check_complete(play.server)
        assert await play.agents[0].task == EXIT_OK
    return f"{len(purchases)} finished after 25 s without a link, exit code 0"


async def agent_stops_and_jobs_outlast_the_drain(effort: Effort) -> str:
    """What is not done in time ends with one error, and the server is freed."""
    async with harness(effort.dice("stop short"), limits=_limits(20.0)) as play:
        purchases = await _streaming(play, effort.streams // 2)
        stopped_at = now()
        play.service.stop()
        assert await play.agents[0].task == EXIT_OK
        took = now() - stopped_at
        done = [await purchase.done() for purchase in purchases]
        finished = [one for one in done if not one.errors]
        for one in done:
            if one.errors:
                one.check_failed_once(play.server)
            else:
                one.check_complete(play.server)
        assert 0 < len(finished) < len(done)
        assert not play.server.active
    cut_off = len(done) - len(finished)
    return f"{len(finished)} finished, {cut_off} told once, stopped after {took:.0f} s"


async def agent_stops_with_an_unacknowledged_end(effort: Effort) -> str:
    """The end of the last job is not acknowledged; a new offer comes; then it is."""
    backend = ScriptedBackend()
    async with ScriptedCoordinator() as coordinator, RunningAgent(coordinator, backend) as agent:
        peer = await agent.connected()
        peer.acknowledges = False
        job = new_job()
        await peer.give(job)
        (await backend.next_run()).answer(b"all of it")
        assert isinstance(await peer.end(job.job_id), JobResult)
        agent.service.stop()
        await peer.next(Draining)
        offered = new_job()
        await peer.give(offered)
        refusal = await peer.error(offered.job_id)
        assert refusal.code == "draining"
        assert refusal.retryable
        assert isinstance(refusal, JobError)
        assert not agent.task.done(), "it left before its end was acknowledged"
        await peer.flush()
        assert await agent.task == EXIT_OK
        assert len(backend.runs) == 1
    return "offer refused with draining, left after the acknowledgement, exit code 0"


async def agent_replaced_by_a_newer_process(effort: Effort) -> str:
    """A rolling update: both have the same key for a while."""
    async with harness(effort.dice("newer")) as play:
        purchases = await _streaming(play, effort.streams // 2)
        older = play.agents[0]
        newer = await play.add_agent(identity=older.identity)
        await until(newer.service.uplink.connected.is_set)
        await play.offers()
        new = [await play.clients.buy(Order(f"new-{n}", 5, 300)).done() for n in range(4)]
        for purchase in [*new, *purchases]:
            (await purchase.done()).check_complete(play.server)
        assert newer.service.jobs.completed == len(new)
        assert await older.task == EXIT_REFUSED
        await play.idle()
        assert not newer.task.done()
    return f"{len(purchases)} finished at the older, {len(new)} ran at the newer"


def _limits(drain_timeout_s: float) -> LimitsConfig:
    return LimitsConfig(max_concurrent=MAX_CONCURRENT, drain_timeout_s=drain_timeout_s)


async def _streaming(play: ScenarioHarness, count: int) -> list[Purchase]:
    """Streams of ten seconds to two minutes, all under way."""
    orders = [Order(f"job-{n}", 3 + n * 20 // count, 300, pace_s=5.0) for n in range(count)]
    purchases = [play.clients.buy(order) for order in orders]
    await play.server.streaming(*(order.name for order in orders), at_least=300)
    return purchases
