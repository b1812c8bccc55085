"""Our agent and our coordinator with the Use Pod dialect between them.

`tests/marketplace/` has the cases that also hold for the marketplace's own agent.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from provider_agent.agent.backends.configured import make_backends
from provider_agent.agent.config import (
    BackendConfig,
    CoordinatorConfig,
    LimitsConfig,
    PricingConfig,
)
from provider_agent.agent.identity.key import load_or_create
from provider_agent.agent.service import Service
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings, ExtraDialect
from provider_agent.protocol.limits import CONNECT_PATH, MIB
from tests.kit.agent_config import agent_config
from tests.kit.end_to_end_harness import wait_for_models
from tests.kit.fakes.server import FakeResponse, Fault
from tests.kit.fakes.vllm import MODEL, FakeVllm
from tests.kit.fault_proxy import FaultProxy
from tests.kit.flood_server import MODEL as FLOOD_MODEL
from tests.kit.flood_server import FloodServer, flood

CHAT = "/v1/chat/completions"
SETTINGS = CoordinatorSettings(
    port=0, drain_s=0, queue_s=5, dialects=frozenset({ExtraDialect.USEPOD})
)
REQUEST = {"model": MODEL, "messages": [{"role": "user", "content": "Größe"}], "stream": True}


@asynccontextmanager
async def our_agent(folder: Path, port: int, *backends: BackendConfig) -> AsyncIterator[Service]:
    """Run an agent that dials a port of this machine."""
    config = agent_config(
        "",
        key_path=folder / "identity.key",
        coordinator=CoordinatorConfig(url=f"ws://127.0.0.1:{port}{CONNECT_PATH}", dialect="usepod"),
        backends=backends,
        pricing=PricingConfig(default_input_per_1m=500_000, default_output_per_1m=750_000),
        limits=LimitsConfig(drain_timeout_s=5.0, max_concurrent=4),
    )
    identity = load_or_create(config.identity.key_path)
    service = Service(config, identity, make_backends(backends, {}), uniform=lambda: 0.0)
    running = asyncio.create_task(service.run(), name="agent under test")
    try:
        yield service
    finally:
        service.stop()
        await running


@pytest.fixture
async def server() -> AsyncIterator[FakeVllm]:
    async with FakeVllm() as server:
        yield server


@pytest.fixture
async def coordinator() -> AsyncIterator[Coordinator]:
    async with Coordinator(SETTINGS) as coordinator:
        yield coordinator


@pytest.fixture
async def proxy(coordinator: Coordinator) -> AsyncIterator[FaultProxy]:
    """The agent's link goes through this proxy."""
    async with FaultProxy(coordinator.port) as proxy:
        yield proxy


@pytest.fixture
async def agent(
    coordinator: Coordinator, proxy: FaultProxy, server: FakeVllm, tmp_path: Path
) -> AsyncIterator[Service]:
    backend = BackendConfig(kind="vllm", url=server.url)
    async with our_agent(tmp_path, proxy.port, backend) as service:
        await wait_for_models(coordinator)
        yield service


@pytest.fixture
async def http(coordinator: Coordinator) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(coordinator.http_url) as session:
        yield session


async def test_a_rejected_request_and_an_unknown_model_are_errors(
    agent: Service, http: aiohttp.ClientSession, server: FakeVllm
) -> None:
    server.script_jobs(FakeResponse((b'{"error": {"message": "scripted"}}',), 400))
    async with http.post(CHAT, json=REQUEST) as response:
        assert response.status == 400
        assert (await response.json())["error"]["message"] == "scripted"
    async with http.post(CHAT, json={**REQUEST, "model": "other"}) as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "model_not_loaded"


@pytest.mark.parametrize(
    ("path", "stream"), [(CHAT, False), ("/v1/messages", True), ("/v1/completions", True)]
)
async def test_what_the_dialect_cannot_carry_is_refused(
    agent: Service, http: aiohttp.ClientSession, server: FakeVllm, path: str, stream: bool
) -> None:
    async with http.post(path, json={**REQUEST, "max_tokens": 5, "stream": stream}) as response:
        assert response.status == 400
        assert "is offered" in await response.text()
    assert server.jobs == []


async def test_a_request_without_output_is_sent_again_when_its_agent_returns_after_a_lost_link(
    coordinator: Coordinator,
    agent: Service,
    proxy: FaultProxy,
    http: aiohttp.ClientSession,
    server: FakeVllm,
) -> None:
    server.script_jobs(Fault.HANG_BEFORE_HEADERS)
    posting = asyncio.create_task(http.post(CHAT, json=REQUEST))
    first = await server.wait_for_job()
    proxy.connections[0].cut()
    response = await posting
    await response.read()
    await first.disconnected.wait()

    assert response.status == 200
    assert len(server.jobs) == 2
    assert coordinator.detached_sessions() == []


async def test_a_client_that_does_not_read_costs_only_its_own_job(
    coordinator: Coordinator, proxy: FaultProxy, server: FakeVllm, tmp_path: Path
) -> None:
    server.wait_after_first_chunk = asyncio.Event()
    with FloodServer(flood(64 * MIB)) as flooding:
        backends = (
            BackendConfig(kind="vllm", url=server.url),
            BackendConfig(kind="openai_compatible", url=flooding.url),
        )
        async with (
            our_agent(tmp_path, proxy.port, *backends) as agent,
            aiohttp.ClientSession(coordinator.http_url) as http,
        ):
            await wait_for_models(coordinator, FLOOD_MODEL, MODEL)
            other = await http.post(CHAT, json=REQUEST)
            slow = await http.post(CHAT, json={**REQUEST, "model": FLOOD_MODEL})
            while agent.jobs.in_flight > 1:  # noqa: ASYNC110 - no event reports it
                await asyncio.sleep(0.01)
            server.wait_after_first_chunk.set()
            assert await other.read() == server.jobs[0].sent
            with pytest.raises(aiohttp.ClientError):
                await slow.read()

    assert len(proxy.accepted_at) == 1
    assert flooding.answered == 0
