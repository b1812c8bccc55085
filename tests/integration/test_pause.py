"""`pause` and `resume` with real agent processes and the reference coordinator."""

import asyncio
import json
import signal
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import aiohttp
import pytest

from provider_agent.agent.control.signature import PATH, SIGNATURE_HEADER, TIME_HEADER
from provider_agent.coordinator.own_addresses import own_addresses
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from tests.kit.cli_agent import free_ports
from tests.kit.cli_process import CliProcess, run_command, start_command
from tests.kit.fakes.openai_compatible import MODEL, FakeOpenAICompatible


def write_config(
    home: Path, coordinator: Coordinator, server: FakeOpenAICompatible, address: str
) -> None:
    (home / "agent.toml").write_text(
        f'[coordinator]\nurl = "{coordinator.connect_url}"\n'
        f'[identity]\nkey_path = "identity.key"\n[observability]\nprometheus_addr = "{address}"\n'
        f'[[backends]]\nkind = "openai_compatible"\nurl = "{server.url}"\n'
    )


def request(
    client: aiohttp.ClientSession, coordinator: Coordinator
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    url = f"{coordinator.http_url}/v1/chat/completions"
    return client.post(url, json=body)


@pytest.fixture
async def coordinator() -> AsyncIterator[Coordinator]:
    async with Coordinator(CoordinatorSettings(port=0, drain_s=0)) as running:
        yield running


async def connected(agent: CliProcess, home: Path) -> None:
    """Wait until the agent is connected, and its status server has started to respond."""
    await agent.wait_for_log(" connected ")
    while (await run_command("health", home=home)).code:
        pass


async def stop(agent: CliProcess) -> int:
    agent.signal(signal.SIGTERM)
    return (await agent.wait()).code


async def test_pause_during_a_stream_finishes_it_and_resume_serves_again(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    ports = free_ports(1)
    async with FakeOpenAICompatible() as server, aiohttp.ClientSession() as client:
        server.wait_after_first_chunk = asyncio.Event()
        write_config(tmp_path, coordinator, server, f"127.0.0.1:{ports[0]}")
        async with start_command("run", home=tmp_path) as agent:
            await connected(agent, tmp_path)
            async with request(client, coordinator) as response:
                assert b"content" in await response.content.readuntil(b"\n\n")
                paused = await run_command("pause", "--for", "2h", home=tmp_path)
                assert paused.code == 0, paused.err
                assert paused.out.startswith("the agent is paused until ")
                assert "; 1 running job finishes first" in paused.out
                health = await run_command("health", "--ready", home=tmp_path)
                assert (health.code, "not serving: paused until " in health.out) == (1, True)
                assert (await run_command("health", home=tmp_path)).code == 0
                server.wait_after_first_chunk.set()
                assert (await response.content.read()).endswith(b"data: [DONE]\n\n")
            await agent.wait_for_log(" disconnected ")
            status = await run_command("status", "--json", home=tmp_path)
            state = json.loads(status.out)
            assert (state["link"], state["availability"]["paused"]) == ("disconnected", True)
            resumed = await run_command("resume", home=tmp_path)
            assert (resumed.code, resumed.out) == (0, "the agent is no longer paused\n")
            await agent.wait_for_log(" connected ")
            async with request(client, coordinator) as response:
                assert (await response.read()).endswith(b"data: [DONE]\n\n")
            assert await stop(agent) == 0


async def test_pause_survives_a_restart(coordinator: Coordinator, tmp_path: Path) -> None:
    ports = free_ports(1)
    async with FakeOpenAICompatible() as server:
        write_config(tmp_path, coordinator, server, f"127.0.0.1:{ports[0]}")
        async with start_command("run", home=tmp_path) as agent:
            await connected(agent, tmp_path)
            assert (await run_command("pause", home=tmp_path)).code == 0
            await agent.wait_for_log(" disconnected ")
            assert await stop(agent) == 0  # at once, although it is paused
        stored = tmp_path / "identity.key.pauses"
        assert stat.S_IMODE(stored.stat().st_mode) == 0o600
        async with start_command("run", home=tmp_path) as agent:
            assert "reason=paused" in await agent.wait_for_log(" agent does not serve ")
            while (await run_command("health", home=tmp_path)).code:
                pass
            assert (await run_command("resume", home=tmp_path)).code == 0
            await agent.wait_for_log(" connected ")
            assert not stored.exists()
            assert await stop(agent) == 0


async def test_command_to_another_address_of_the_machine_is_refused(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    addresses = own_addresses(socket.AF_INET)
    if not addresses:
        pytest.skip("this machine has no address beside loopback")
    ports = free_ports(1)
    async with FakeOpenAICompatible() as server, aiohttp.ClientSession() as client:
        write_config(tmp_path, coordinator, server, f"0.0.0.0:{ports[0]}")
        async with start_command("run", home=tmp_path) as agent:
            await connected(agent, tmp_path)
            headers = {TIME_HEADER: "1", SIGNATURE_HEADER: "00"}
            url = f"http://{addresses[0]}:{ports[0]}{PATH}"
            async with client.post(url, data=b"{}", headers=headers) as response:
                assert response.status == 403
                assert "only from the agent's own machine" in await response.text()
            # Over loopback the same server accepts commands.
            assert (await run_command("pause", home=tmp_path)).code == 0
            assert await stop(agent) == 0
