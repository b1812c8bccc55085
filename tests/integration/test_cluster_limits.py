"""Limits of API keys over several coordinators and a real NATS server."""

import aiohttp
from msgspec.structs import replace

from provider_agent.coordinator.access import SecretSet, digest_of
from provider_agent.coordinator.key_limits import ANYONE, key_id
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.usage_window import Unit
from tests.kit.cluster_harness import (
    ClusterHarness,
    cluster_harness,
    member_of,
    remote_job_harness,
    wait_until,
)
from tests.kit.coordinator_harness import BODY, CHAT, NO_HEARTBEATS

ONE = key_id(digest_of("one"))
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


async def _until_known(coordinator: Coordinator, key: bytes, unit: Unit, used: int) -> None:
    """Wait until a coordinator knows what was used at the others."""
    limits = coordinator.key_limits
    assert limits is not None
    await wait_until(lambda: limits.used(key, unit) >= used)
    assert limits.used(key, unit) == used


async def test_limit_that_is_used_up_at_one_coordinator_holds_at_the_others() -> None:
    async with cluster_harness() as cluster:
        first, *others = await _start(cluster, 3)
        await _use_up(await cluster.client(first))
        for other in others:
            client = await cluster.client(other)
            await _until_known(other, ONE, Unit.REQUESTS, LIMIT)
            assert await _status(client, "one") == 429
            assert await _status(client, "two") == 503


async def test_coordinator_that_joins_learns_what_was_used() -> None:
    async with cluster_harness() as cluster:
        (first,) = await _start(cluster, 1)
        await _use_up(await cluster.client(first))
        joined = await cluster.start(LIMITED)
        await _until_known(joined, ONE, Unit.REQUESTS, LIMIT)
        assert await _status(await cluster.client(joined), "one") == 429


async def test_usage_that_is_lost_with_nats_is_reported_when_it_returns() -> None:
    async with cluster_harness() as cluster:
        first, second = await _start(cluster, 2)
        await cluster.nats.stop()
        await wait_until(
            lambda: not (member_of(first).is_connected or member_of(second).is_connected)
        )
        await _use_up(await cluster.client(first))
        await cluster.nats.start()
        await _until_known(second, ONE, Unit.REQUESTS, LIMIT)
        assert await _status(await cluster.client(second), "one") == 429


async def test_tokens_of_a_job_at_another_coordinator_count_at_both() -> None:
    settings = replace(NO_HEARTBEATS, max_tokens_per_minute=7)
    async with remote_job_harness(settings) as remote:
        job, response = await remote.start_response(b"data: 1\n\n")
        await job.finish()  # with 7 tokens
        await response.read()
        await _until_known(remote.holder, ANYONE, Unit.TOKENS, 7)
        for coordinator in (remote.edge, remote.holder):
            client = await remote.cluster.client(coordinator)
            assert (await remote.cluster.ask(client)).status == 429
