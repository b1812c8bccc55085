import socket

import pytest
from msgspec.structs import replace

from provider_agent.agent.cli.status_client import NoAgent, fetch_snapshot, fetch_status_page
from tests.kit.cli_agent import READY, other_http_server, status_server


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
