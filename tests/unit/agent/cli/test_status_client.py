import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from provider_agent.agent.cli.status_client import (
    NoAgent,
    fetch_snapshot,
    fetch_status_page,
    fingerprint_of,
)
from provider_agent.agent.identity.key import load_or_create
from provider_agent.agent.telemetry.status import StatusSnapshot
from tests.kit.cli_agent import READY, free_ports, other_http_server, status_server


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
        assert await fetch_snapshot(address) == READY


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


async def test_other_program_on_the_address_is_an_error() -> None:
    async with other_http_server() as address:
        with pytest.raises(NoAgent, match=f"another program responds on {address}"):
            await fetch_status_page(address, "/livez")


async def test_other_program_that_responds_with_200_is_an_error() -> None:
    async with other_http_server(200, '{"version": 1}') as address:
        with pytest.raises(NoAgent, match="another program responds"):
            await fetch_snapshot(address)


async def test_large_snapshot_is_read_completely() -> None:
    large = replace(READY, version="1" * 1_000_000)
    async with status_server(large) as address:
        assert await fetch_snapshot(address) == large


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
        assert await fetch_snapshot(address, "mine") == mine
        page = await fetch_status_page(address, "/livez", "mine")
        assert page.fingerprint == "mine"
        with pytest.raises(NoAgent, match=f"no agent responds on {address}"):
            await fetch_snapshot(address, "absent")


async def test_any_agent_is_found_without_the_key_and_never_another_program() -> None:
    async with agents(("one", READY)) as address:
        assert await fetch_snapshot(address) == READY
    async with agents() as address:
        with pytest.raises(NoAgent, match="is `provider-agent run` running"):
            await fetch_status_page(address, "/livez")


async def test_agent_that_takes_over_is_reported_and_not_the_one_that_drains() -> None:
    old, new = replace(READY, draining=True), replace(READY, version="new")
    async with agents(("key", old), ("key", new)) as address:
        assert await fetch_snapshot(address, "key") == new
        assert (await fetch_status_page(address, "/readyz", "key")).status == 200


def test_key_is_read_only_to_choose_between_ports(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    assert fingerprint_of("127.0.0.1:8490-8499", path) is None
    key = load_or_create(path)
    assert fingerprint_of("127.0.0.1:8490-8499", path) == key.fingerprint
    assert fingerprint_of("127.0.0.1:8490", path) is None
    assert fingerprint_of("", path) is None
