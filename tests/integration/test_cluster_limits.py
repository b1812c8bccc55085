"""Limits of API keys over several coordinators and a real NATS server."""

import asyncio

import aiohttp
from msgspec.structs import replace

from provider_agent.coordinator.access import SecretSet
from provider_agent.coordinator.server import Coordinator
from tests.kit.cluster_harness import (
    ClusterHarness,
    cluster_harness,
    member_of,
    remote_job_harness,
    wait_until,
)
from tests.kit.coordinator_harness import BODY, CHAT, NO_HEARTBEATS

LIMIT = 5
LIMITED = replace(
    NO_HEARTBEATS,
    api_keys=SecretSet(["one", "two"]),
    max_requests_per_minute=LIMIT,
    queue_s=0.0,
)


async def _start(cluster: ClusterHarness, count: int) -> list[Coordinator]:
    """Start coordinators; return when all know each other."""
    started = [await cluster.start(LIMITED) for _ in range(count)]
    await wait_until(lambda: all(len(member_of(one).view) == count - 1 for one in started))
    return started


async def _status(client: aiohttp.ClientSession, key: str) -> int:
    async with client.post(CHAT, data=BODY, headers={"x-api-key": key}) as response:
        await response.read()
        return response.status


async def _use_up(client: aiohttp.ClientSession) -> None:
    for _ in range(LIMIT):
        assert await _status(client, "one") == 503  # no agent, but it counts
    assert await _status(client, "one") == 429


async def _until_refused(client: aiohttp.ClientSession) -> int:
    """Send requests until one is refused by the limit; return how many were accepted."""
    accepted = 0
    while await _status(client, "one") != 429:
        accepted += 1
        await asyncio.sleep(0.02)  # a report is on its way
    return accepted


async def test_limit_that_is_used_up_at_one_coordinator_holds_at_the_others() -> None:
    async with cluster_harness() as cluster:
        first, *others = [await cluster.client(one) for one in await _start(cluster, 3)]
        await _use_up(first)
        for client in others:
            # Each would accept `LIMIT` requests alone.
            assert await _until_refused(client) < LIMIT
            assert await _status(client, "two") == 503


async def test_coordinator_that_joins_learns_what_was_used() -> None:
    async with cluster_harness() as cluster:
        (first,) = await _start(cluster, 1)
        await _use_up(await cluster.client(first))
        joined = await cluster.client(await cluster.start(LIMITED))
        assert await _until_refused(joined) < LIMIT


async def test_usage_that_is_lost_with_nats_is_reported_when_it_returns() -> None:
    async with cluster_harness() as cluster:
        first, second = await _start(cluster, 2)
        await cluster.nats.stop()
        await wait_until(
            lambda: not (member_of(first).is_connected or member_of(second).is_connected)
        )
        await _use_up(await cluster.client(first))
        await cluster.nats.start()
        client = await cluster.client(second)
        await wait_until(lambda: member_of(first).is_connected and member_of(second).is_connected)
        assert await _until_refused(client) < LIMIT


async def test_tokens_of_a_job_at_another_coordinator_count_at_both() -> None:
    settings = replace(NO_HEARTBEATS, max_tokens_per_minute=7)
    async with remote_job_harness(settings) as remote:
        job, response = await remote.start_response(b"data: 1\n\n")
        await job.finish()  # with 7 tokens
        await response.read()
        holder = await remote.cluster.client(remote.holder)

        async def refused() -> bool:
            asking = asyncio.create_task(_status(holder, ""))
            taking = asyncio.create_task(remote.agent.next_job())
            done, _ = await asyncio.wait([asking, taking], return_when=asyncio.FIRST_COMPLETED)
            if taking in done:
                await (await taking).fail("internal")  # uses no tokens
                return await asking == 429
            taking.cancel()
            return await asking == 429

        assert (await remote.cluster.ask(remote.client)).status == 429
        while not await refused():
            pass
