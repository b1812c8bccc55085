import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from provider_agent.agent.cli.settings import NO_COORDINATOR
from provider_agent.agent.cli.status_client import (
    NoAgent,
    WantedAgent,
    fetch_state,
    fetch_status_page,
)
from provider_agent.agent.config import load_config
from provider_agent.agent.identity.key import load_or_create
from provider_agent.agent.telemetry.status import StatusSnapshot
from tests.kit.cli_agent import READY, free_ports, other_http_server, status_server
from tests.kit.virtual_time import in_virtual_time


async def test_page_is_fetched_from_a_running_agent() -> None:
    async with status_server() as address:
        page = await fetch_status_page(address, "/livez")

    assert (page.address, page.status, page.body) == (address, 200, b"ok\n")


async def test_page_with_status_503_is_not_an_error() -> None:
    async with status_server(replace(READY, draining=True)) as address:
        page = await fetch_status_page(address, "/readyz")

    assert page.status == 503
    assert page.body.startswith(b"draining")


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
async def test_wildcard_address_is_reached_over_loopback(host: str) -> None:
    if host == "[::]" and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    async with status_server(host=host) as address:
        page = await fetch_status_page(address, "/livez")

    assert page.status == 200
    assert page.address.startswith(("127.0.0.1:", "[::1]:"))


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


async def test_snapshot_is_decoded() -> None:
    async with status_server() as address:
        assert (await fetch_state(address)).snapshot == READY


async def test_disabled_status_server_is_an_error() -> None:
    with pytest.raises(NoAgent, match=r"is off; set \[observability\] prometheus_addr"):
        await fetch_status_page("", "/livez")


async def test_closed_port_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

    with pytest.raises(
        NoAgent, match=f"no agent responds on {address}; is `provider-agent run` running"
    ):
        await fetch_status_page(address, "/livez")


@in_virtual_time
async def test_late_response_is_awaited() -> None:
    # Regression: "no agent responds" on a busy machine, whose agent imports its server for the
    # first request.
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(8)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert (await fetch_status_page(address, "/livez")).body == b"ok\n"


async def test_other_program_on_the_address_is_an_error() -> None:
    async with other_http_server() as address:
        with pytest.raises(NoAgent, match=f"another program responds on {address}"):
            await fetch_status_page(address, "/livez")


async def test_other_program_that_responds_with_200_is_an_error() -> None:
    async with other_http_server(200, '{"version": 1}') as address:
        with pytest.raises(NoAgent, match="another program responds"):
            await fetch_state(address)


async def test_large_snapshot_is_read_completely() -> None:
    large = replace(READY, version="1" * 1_000_000)
    async with status_server(large) as address:
        assert (await fetch_state(address)).snapshot == large


# --- several ports -------------------------------------------------------------------------------


@asynccontextmanager
async def agents(*started: tuple[str, StatusSnapshot]) -> AsyncIterator[str]:
    """Run agents with these fingerprints of keys in a range of ports, behind another program."""
    ports = free_ports(len(started) + 2)
    address = f"{ports[0]}-{ports[-1]}"
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(other_http_server(200, "{}", port=ports[0]))
        for fingerprint, state in started:
            server = status_server(state, ports=address, fingerprint=fingerprint)
            await stack.enter_async_context(server)
        yield f"127.0.0.1:{address}"


async def test_agent_is_found_by_its_key_at_one_of_several_ports() -> None:
    mine = replace(READY, version="mine")
    async with agents(("other", READY), ("mine", mine)) as address:
        assert (await fetch_state(address, WantedAgent("mine"))).snapshot == mine
        page = await fetch_status_page(address, "/livez", WantedAgent("mine"))
        assert (page.fingerprint, page.note) == ("mine", "")


async def test_only_agent_with_another_key_is_used_and_named() -> None:
    # Regression: "no agent responds", although the agent of the installed service did.
    async with agents(("other", READY)) as address:
        wanted = WantedAgent("mine", Path("identity.key"))
        page = await fetch_status_page(address, "/livez", wanted)
        note = "no agent runs with the key identity.key (mine); this is the agent other on"
        assert page.note == f"{note} {page.address}"
        state = await fetch_state(address, wanted)
        assert (state.snapshot, state.note) == (READY, page.note)


async def test_agent_with_another_key_is_not_used_if_only_one_counts() -> None:
    async with agents(("other", READY)) as address:
        wanted = WantedAgent("mine", Path("identity.key"), only=True)
        message = r"with the key identity\.key \(mine\) that .* agents: other on 127\."
        with pytest.raises(NoAgent, match=message):
            await fetch_status_page(address, "/livez", wanted)


@pytest.mark.parametrize("wanted", [WantedAgent(), WantedAgent("mine")])
async def test_several_other_agents_are_listed(wanted: WantedAgent) -> None:
    async with agents(("one", READY), ("two", READY)) as address:
        with pytest.raises(NoAgent) as caught:
            await fetch_state(address, wanted)
        found = re.findall(r"(one|two) on (127\.0\.0\.1:\d+)", str(caught.value))
        assert [name for name, _ in found] == ["one", "two"]
        chosen = str(caught.value).rpartition("PROMETHEUS_ADDR=")[2]
        assert chosen in [at for _, at in found]
        assert (await fetch_state(chosen, wanted)).snapshot == READY


async def test_any_agent_is_found_without_the_key_and_never_another_program() -> None:
    async with agents(("one", READY)) as address:
        assert (await fetch_state(address)).snapshot == READY
    async with agents() as address:
        with pytest.raises(NoAgent, match="is `provider-agent run` running"):
            await fetch_status_page(address, "/livez")


async def test_agent_that_takes_over_is_reported_and_not_the_one_that_drains() -> None:
    old, new = replace(READY, draining=True), replace(READY, version="new")
    async with agents(("key", old), ("key", new)) as address:
        for wanted in (WantedAgent("key"), WantedAgent("absent"), WantedAgent()):
            assert (await fetch_state(address, wanted)).snapshot == new
            assert (await fetch_status_page(address, "/readyz", wanted)).status == 200


def wanted_with(**environ: str) -> WantedAgent:
    overrides = {"coordinator.url": NO_COORDINATOR}
    return WantedAgent.of(load_config(None, environ, overrides, ()))


def test_key_is_read_only_to_choose_between_ports(tmp_path: Path) -> None:
    address = "PROVIDER_AGENT_OBSERVABILITY_PROMETHEUS_ADDR"
    environ = {"HOME": str(tmp_path)}
    assert wanted_with(**environ).fingerprint is None
    path = tmp_path / ".config/provider-agent/identity.key"
    key = load_or_create(path)
    assert wanted_with(**environ) == WantedAgent(key.fingerprint, path)
    for one in ("127.0.0.1:8490", "off"):
        assert wanted_with(**environ, **{address: one}).fingerprint is None


def test_only_the_key_that_the_environment_names_counts(tmp_path: Path) -> None:
    # The health check of a container must not succeed because an agent of its host is healthy.
    path = tmp_path / "identity.key"
    key = load_or_create(path)
    wanted = wanted_with(HOME=str(tmp_path), PROVIDER_AGENT_IDENTITY_KEY_PATH=str(path))
    assert wanted == WantedAgent(key.fingerprint, path, only=True)
