"""The load balancer in front of coordinators."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import pytest
from aiohttp import web

from tests.kit import load_balancer
from tests.kit.cluster_harness import wait_until
from tests.kit.load_balancer import LoadBalancer
from tests.kit.wrong_servers import closed_port


class PlayedCoordinator:
    """Answers every path but `/readyz` with its name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.not_ready = ""
        self.port = 0

    async def start(self, stack: AsyncExitStack) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = int(runner.addresses[0][1])

    async def _answer(self, request: web.Request) -> web.Response:
        if request.path != "/readyz":
            return web.Response(text=self.name)
        return web.Response(status=503 if self.not_ready else 200, text=self.not_ready)


async def names(port: int) -> set[str]:
    """Return which coordinators answer to several connections that are open at once."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        answers = [
            await stack.enter_async_context(session.get(f"http://127.0.0.1:{port}/name"))
            for _ in range(4)
        ]
        return {await answer.text() for answer in answers}


@pytest.fixture
async def coordinators(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[PlayedCoordinator]]:
    monkeypatch.setattr(load_balancer, "CHECK_EVERY_S", 0.01)
    async with AsyncExitStack() as stack:
        started = [PlayedCoordinator("a"), PlayedCoordinator("b")]
        for one in started:
            await one.start(stack)
        yield started


async def test_clients_reach_ready_coordinators_and_agents_those_that_do_not_stop(
    coordinators: list[PlayedCoordinator],
) -> None:
    a, b = coordinators
    a.not_ready = "no agent with a model"
    async with LoadBalancer([a.port, b.port]) as balancer:
        await wait_until(lambda: balancer.ready == 1 and balancer.running == 2)
        assert await names(balancer.client_port) == {"b"}
        b.not_ready = "the coordinator is stopping"
        a.not_ready = ""
        await wait_until(lambda: balancer.ready == 1 and balancer.running == 1)
        assert await names(balancer.client_port) == {"a"}
        assert await names(balancer.agent_port) == {"a"}


async def test_without_a_ready_coordinator_clients_reach_one_that_runs(
    coordinators: list[PlayedCoordinator],
) -> None:
    a, _ = coordinators
    a.not_ready = "no agent with a model"
    async with LoadBalancer([a.port]) as balancer:
        await wait_until(lambda: balancer.running == 1)
        assert await names(balancer.client_port) == {"a"}


async def test_a_refused_connection_is_sent_to_another_coordinator(
    coordinators: list[PlayedCoordinator],
) -> None:
    a, _ = coordinators
    async with LoadBalancer([closed_port(), a.port]) as balancer:
        await wait_until(lambda: balancer.ready == 1)
        balancer._ready.up.add(balancer._ports[0])  # as before its checks have failed
        assert await names(balancer.client_port) == {"a"}


async def test_a_coordinator_that_cannot_be_reached_resets_the_client() -> None:
    async with LoadBalancer([closed_port()]) as balancer:
        with pytest.raises(aiohttp.ClientError):
            await names(balancer.client_port)
