"""The agents and clients of the benchmark of a large fleet, against a real coordinator."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
from msgspec.structs import replace

from bench.fleet_clients import FleetClients
from bench.simulated_agent import EVENT, Response, SimulatedAgent
from provider_agent.coordinator.server import Coordinator
from provider_agent.protocol.limits import MIN_WINDOW_BYTES
from tests.kit.cluster_harness import wait_until
from tests.kit.coordinator_harness import NO_HEARTBEATS, NO_TIMEOUT

SETTINGS = replace(NO_HEARTBEATS, window_bytes=MIN_WINDOW_BYTES)
BIG = Response(events=4 * MIN_WINDOW_BYTES // len(EVENT), interval_s=0.0)
"""More than a window, so that the agent has to wait for acknowledgements."""


@contextlib.asynccontextmanager
async def connected(response: Response) -> AsyncIterator[tuple[SimulatedAgent, FleetClients]]:
    """Run a coordinator and an agent; return when a request can be answered."""
    async with (
        Coordinator(SETTINGS) as coordinator,
        aiohttp.ClientSession(timeout=NO_TIMEOUT) as session,
    ):

        def port() -> int:
            return coordinator.port

        agent = SimulatedAgent(["a", "b"], port, asyncio.Semaphore(), response, lambda low, _: low)
        clients = FleetClients(session, port, ["a", "b"], response.body)
        running = asyncio.create_task(agent.run())
        try:
            await wait_until(lambda: agent.connected)
            yield agent, clients
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def answers(clients: FleetClients, number: int) -> None:
    """Let one client ask until `number` of its requests were answered or one has failed."""
    asking = asyncio.create_task(clients.run_one())
    await wait_until(lambda: clients.answered >= number or clients.failed > 0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def test_every_byte_of_a_response_larger_than_the_window_arrives() -> None:
    async with connected(BIG) as (agent, clients):
        await answers(clients, 2)
        await wait_until(lambda: not agent.jobs)
    assert (clients.answered, clients.failed) == (2, 0)


async def test_a_response_continues_after_the_link_was_lost() -> None:
    async with connected(BIG) as (agent, clients):
        asking = asyncio.create_task(answers(clients, 1))
        # Checked in each iteration of the loop: the response must not end before the next check.
        while not any(job.acked for job in agent.jobs.values()):  # noqa: ASYNC110
            await asyncio.sleep(0)
        agent.lose_link()
        await asking
        assert agent.welcomes == 2
    assert (clients.answered, clients.failed) == (1, 0)


async def test_a_client_that_leaves_cancels_its_job() -> None:
    async with connected(Response(events=10, interval_s=3600.0)) as (agent, clients):
        asking = asyncio.create_task(clients.run_one())
        await wait_until(lambda: any(job.sent for job in agent.jobs.values()))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await wait_until(lambda: not agent.jobs)
