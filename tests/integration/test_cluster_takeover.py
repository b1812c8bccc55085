"""Agents that reconnect to another coordinator of the cluster, and continue their jobs there."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from msgspec.structs import replace

from provider_agent.coordinator import drain
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.limits import MOVED
from tests.kit.cluster_harness import (
    RemoteJobHarness,
    cluster_harness,
    crash,
    member_of,
    remote_job_harness,
    wait_until,
)
from tests.kit.coordinator_harness import NO_HEARTBEATS
from tests.kit.scripted_job import ScriptedJob

LONG_DRAIN = replace(NO_HEARTBEATS, drain_s=60)


@pytest.fixture(autouse=True)
def short_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "LOAD_BALANCER_S", 1.0)


@contextlib.asynccontextmanager
async def local_job_harness(
    settings: CoordinatorSettings = NO_HEARTBEATS,
) -> AsyncIterator[tuple[RemoteJobHarness, Coordinator]]:
    """Agent and client have the same coordinator; the second value is another one."""
    async with cluster_harness() as cluster:
        own, other = await cluster.start(settings), await cluster.start(settings)
        agent, client = await cluster.agent(own), await cluster.client(own)
        local = RemoteJobHarness(cluster, own, own, agent, client)
        await know_each_other(local, own, other)
        yield local, other


async def know_each_other(harness: RemoteJobHarness, *coordinators: Coordinator) -> None:
    for coordinator in coordinators:
        others = {member_of(each).own_id for each in coordinators if each is not coordinator}
        await wait_until(lambda: others <= set(member_of(coordinator).view))  # noqa: B023


async def third(remote: RemoteJobHarness) -> Coordinator:
    coordinator = await remote.cluster.start(NO_HEARTBEATS)
    await know_each_other(remote, remote.edge, remote.holder, coordinator)
    return coordinator


async def move(remote: RemoteJobHarness, job: ScriptedJob, to: Coordinator) -> None:
    """Break the link while the agent sends; reconnect to another coordinator."""
    await remote.agent.lose_link()
    job.stream.write(b"two,")
    await remote.agent.reconnect(connect_url=to.connect_url)


async def assert_continues(
    remote: RemoteJobHarness, job: ScriptedJob, response: aiohttp.ClientResponse
) -> None:
    await job.answer_rest(b"three")
    assert await response.read() == b"two,three"
    await job.done.wait()
    await wait_until(lambda: not len(member_of(remote.edge).edge))


async def test_agent_reconnects_to_a_third_coordinator() -> None:
    async with remote_job_harness() as remote:
        job, response = await remote.start_response(b"one,")
        new_holder = await third(remote)
        await move(remote, job, new_holder)
        await assert_continues(remote, job, response)
        for coordinator in (remote.holder, new_holder):
            await wait_until(lambda: not len(member_of(coordinator).holder))  # noqa: B023


async def test_agent_reconnects_to_the_coordinator_of_the_client() -> None:
    async with remote_job_harness() as remote:
        job, response = await remote.start_response(b"one,")
        await move(remote, job, remote.edge)
        assert not len(member_of(remote.edge).edge)  # the job is local now
        await assert_continues(remote, job, response)
        await wait_until(lambda: not len(member_of(remote.holder).holder))


async def test_agent_of_a_local_job_reconnects_to_another_coordinator() -> None:
    async with local_job_harness() as (local, other):
        job, response = await local.start_response(b"one,")
        await move(local, job, other)
        await assert_continues(local, job, response)


async def test_agent_reconnects_before_its_coordinator_notices_the_lost_link() -> None:
    async with local_job_harness() as (local, other):
        job, response = await local.start_response(b"one,")
        old = local.agent.socket
        job.stream.write(b"two,")
        await local.agent.reconnect(connect_url=other.connect_url)
        await assert_continues(local, job, response)
        await old.wait_closed()
        assert not local.edge.agents()


async def test_agent_returns_to_its_first_coordinator() -> None:
    async with local_job_harness() as (local, other):
        job, response = await local.start_response(b"one,")
        await move(local, job, other)
        await local.agent.lose_link()
        await local.agent.reconnect(connect_url=local.edge.connect_url)
        await assert_continues(local, job, response)
        await wait_until(lambda: not len(member_of(other).holder))


async def test_job_that_has_ended_is_delivered_over_another_coordinator() -> None:
    async with remote_job_harness() as remote:
        job, response = await remote.start_response(b"one,")
        new_holder = await third(remote)
        await remote.agent.lose_link()
        job.stream.write(b"two,three")
        await job.finish()
        await remote.agent.reconnect(connect_url=new_holder.connect_url)
        assert await response.read() == b"two,three"
        await job.done.wait()


async def test_job_continues_after_a_crash_of_its_holder() -> None:
    async with remote_job_harness() as remote:
        job, response = await remote.start_response(b"one,")
        new_holder = await third(remote)
        await crash(remote.holder)
        await wait_until(lambda: len(member_of(remote.edge).view) == 1)
        await move(remote, job, new_holder)
        await assert_continues(remote, job, response)


async def test_agent_that_reconnects_while_nats_is_down_keeps_its_jobs() -> None:
    async with remote_job_harness() as remote:
        job, response = await remote.start_response(b"one,")
        new_holder = await third(remote)
        await remote.cluster.nats.stop()
        await wait_until(lambda: not member_of(new_holder).is_connected)
        await remote.agent.lose_link()
        job.stream.write(b"two,")
        welcome = remote.agent.protocol.welcome
        await remote.agent.reconnect(connect_url=new_holder.connect_url)
        assert remote.agent.rejected is not None
        assert remote.agent.rejected.code == "cluster_unavailable"
        assert remote.agent.rejected.retry_after_ms
        await remote.cluster.nats.start()
        await know_each_other(remote, remote.edge, remote.holder, new_holder)
        await wait_until(lambda: member_of(new_holder).is_connected)
        remote.agent.protocol.welcome = welcome
        await remote.agent.reconnect()
        await assert_continues(remote, job, response)


async def test_agent_cancels_the_jobs_of_a_coordinator_that_crashed() -> None:
    async with remote_job_harness() as remote:
        job, _response = await remote.start_response(b"one,")
        new_holder = await third(remote)
        await crash(remote.edge)
        await remote.agent.lose_link()  # before the others notice the crash
        await remote.agent.reconnect(connect_url=new_holder.connect_url)
        assert job.dropped
        assert len(new_holder.agents()) == 1


async def test_jobs_move_when_their_holder_stops() -> None:
    async with remote_job_harness(LONG_DRAIN) as remote:
        job, response = await remote.start_response(b"one,")
        stopping = asyncio.create_task(remote.holder.stop())
        await remote.agent.closed.wait()
        assert remote.agent.drain is not None
        assert remote.agent.drain.reconnect_after_ms == 0
        assert remote.agent.socket.close_code == MOVED
        job.stream.write(b"two,")
        await remote.agent.reconnect(connect_url=remote.edge.connect_url)
        await assert_continues(remote, job, response)
        await stopping


async def test_client_of_a_stopping_coordinator_receives_its_whole_response() -> None:
    async with local_job_harness(LONG_DRAIN) as (local, other):
        job, response = await local.start_response(b"one,")
        stopping = asyncio.create_task(local.edge.stop())
        await local.agent.closed.wait()
        job.stream.write(b"two,")
        await local.agent.reconnect(connect_url=other.connect_url)
        assert not stopping.done()
        await assert_continues(local, job, response)
        await stopping


async def test_stopping_coordinator_serves_new_requests_with_agents_of_others() -> None:
    async with local_job_harness(LONG_DRAIN) as (local, other):
        stopping = asyncio.create_task(local.edge.stop())
        await wait_until(lambda: local.agent.drain is not None)
        await local.agent.lose_link()
        assert (await local.client.get("/readyz")).status == 503
        asking = asyncio.create_task(local.cluster.ask(local.client))
        await local.agent.reconnect(resume=False, connect_url=other.connect_url)
        await (await local.agent.next_job()).answer(b"served")
        assert await (await asking).read() == b"served"
        await stopping


async def test_agent_that_is_sent_back_to_a_stopping_coordinator_continues_there() -> None:
    async with remote_job_harness(LONG_DRAIN) as remote:
        job, response = await remote.start_response(b"one,")
        stopping = asyncio.create_task(remote.holder.stop())
        await remote.agent.closed.wait()
        job.stream.write(b"two,")
        await remote.agent.reconnect()
        await assert_continues(remote, job, response)
        await stopping


async def test_jobs_of_others_survive_the_end_of_the_drain() -> None:
    async with remote_job_harness(replace(NO_HEARTBEATS, drain_s=0)) as remote:
        job, response = await remote.start_response(b"one,")
        await remote.holder.stop()
        job.stream.write(b"two,")
        await remote.agent.closed.wait()
        await remote.agent.reconnect(connect_url=remote.edge.connect_url)
        await assert_continues(remote, job, response)


async def test_stream_that_a_stopping_edge_cuts_off_ends_with_an_error_event() -> None:
    async with remote_job_harness(replace(NO_HEARTBEATS, drain_s=0)) as remote:
        job, response = await remote.start_response(b"data: {}\n\n")
        await remote.edge.stop()
        assert b"The coordinator is stopping." in await response.read()
        await job.cancelled.wait()


async def test_request_of_a_foreign_agent_takes_over_no_job() -> None:
    async with remote_job_harness() as remote:
        job, response = await remote.start_response(b"one,")
        new_holder = await third(remote)
        thief = await remote.cluster.agent(new_holder, instance_id="thief")
        await thief.lose_link()
        thief.protocol.welcome = remote.agent.protocol.welcome
        await thief.reconnect(live_jobs=[job.live_job()])
        assert thief.protocol.welcome is not None
        assert thief.protocol.welcome.resumed == []
        await job.answer_rest(b"two")
        assert await response.read() == b"two"


async def test_end_is_acknowledged_only_when_the_edge_has_it() -> None:
    async with remote_job_harness() as remote:
        job, response = await remote.start_response(b"one,")
        await remote.cluster.nats.stop()
        await wait_until(lambda: not member_of(remote.holder).is_connected)
        await job.answer_rest(b"two")
        await remote.agent.settle()
        assert not job.done.is_set()
        await remote.cluster.nats.start()
        assert await response.read() == b"two"
        await job.done.wait()
