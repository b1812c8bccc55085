"""The status page's files, headers and event stream; tests/integration tests the page itself."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Self

import aiohttp
import pytest
from msgspec.structs import replace

from provider_agent.agent.telemetry.metrics import Metrics
from provider_agent.agent.telemetry.status import StatusSnapshot
from provider_agent.agent.telemetry.status_events import INTERVAL_S, MAX_SUBSCRIBERS, WRITE_S
from provider_agent.agent.telemetry.status_server import StatusServer
from tests.kit.cli_agent import READY, status_server
from tests.kit.virtual_time import in_virtual_time, now

FILES = {
    "/": "text/html",
    "/page/status.css": "text/css",
    "/page/status.js": "text/javascript",
    "/page/icon.svg": "image/svg+xml",
}
PATHS = [*FILES, "/status", "/metrics", "/readyz", "/livez", "/events", "/unknown"]


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with status_server() as address:
        yield f"http://{address}"


async def test_page_consists_of_files_of_this_server(url: str) -> None:
    async with aiohttp.ClientSession(url) as http:
        for path, content_type in FILES.items():
            async with http.get(path) as response:
                text = await response.text()
            assert (response.status, response.content_type) == (200, content_type)
            names = re.findall(r'(?:href|src)="([^"#]+)"', text)
            links = {f"/{name}" for name in names}
            assert links <= {*FILES, "/status", "/metrics"}
            assert not re.search(r"https?://(?!www\.w3\.org/)", text)


async def test_every_response_forbids_other_pages_and_inline_code(url: str) -> None:
    async with aiohttp.ClientSession(url) as http:
        for path in PATHS:
            async with http.head(path) as response:
                headers = response.headers
            policy = headers["Content-Security-Policy"].split("; ")
            assert policy[0] == "default-src 'none'"
            assert {"script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy)
            assert "unsafe" not in headers["Content-Security-Policy"]
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    "headers", [{"Host": "rebound.example:8490"}, {"Origin": "http://other.example"}]
)
async def test_other_web_pages_get_no_answer(headers: dict[str, str], url: str) -> None:
    # With DNS rebinding, a web page could read models, load and earnings.
    async with aiohttp.ClientSession(url, headers=headers) as http:
        for path in PATHS:
            async with http.get(path) as response:
                text = await response.text()
            assert response.status == (200 if path == "/livez" else 421)
            assert ("allowed_hosts" in text) == (path != "/livez")


async def test_probe_and_scrape_by_pod_address_or_service_name_are_answered() -> None:
    async with status_server(host="0.0.0.0") as address:
        port = address.rpartition(":")[2]
        for host in (f"10.1.2.3:{port}", "agent", "agent.monitoring.svc.cluster.local"):
            async with aiohttp.ClientSession(headers={"Host": host}) as http:
                for path in ("/livez", "/readyz", "/metrics"):
                    async with http.get(f"http://127.0.0.1:{port}{path}") as response:
                        assert response.status == 200


async def test_only_get_and_head_are_accepted(url: str) -> None:
    async with aiohttp.ClientSession(url) as http:
        for path in ("/", "/events", "/status"):
            async with http.post(path) as response:
                assert response.status == 405


async def read_state(response: aiohttp.ClientResponse) -> StatusSnapshot:
    """Read the next event of the stream."""
    while not (line := await response.content.readline()).startswith(b"data: "):
        assert line, "the stream ended"
    return StatusSnapshot(**json.loads(line.removeprefix(b"data: ")))


class ChangingAgent:
    """A status server whose state a test changes."""

    def __init__(self, **changes: object) -> None:
        self.state = replace(READY, **changes)
        self.server = StatusServer("127.0.0.1:0", lambda: self.state, Metrics())

    async def __aenter__(self) -> Self:
        self.server.listen()
        await self.server.serve()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.server.stop()


@in_virtual_time
async def test_events_carry_the_state_each_second() -> None:
    async with (
        ChangingAgent(in_flight=1) as agent,
        aiohttp.ClientSession() as http,
        http.get(f"http://{agent.server.address}/events") as response,
    ):
        assert response.content_type == "text/event-stream"
        assert (await read_state(response)).in_flight == 1
        began = now()
        agent.state = replace(READY, in_flight=2, draining=True)
        state = await read_state(response)
        assert (state.in_flight, state.not_ready) == (
            2,
            ["draining: the agent is stopping and accepts no new jobs"],
        )
        assert now() - began == pytest.approx(INTERVAL_S)


@in_virtual_time
async def test_stop_ends_the_events_at_once() -> None:
    async with (
        ChangingAgent() as agent,
        aiohttp.ClientSession() as http,
        http.get(f"http://{agent.server.address}/events") as response,
    ):
        await read_state(response)
        began = now()
        await agent.server.stop()
        assert now() == began
        assert (await response.content.read()).strip() == b""


async def test_subscribers_are_bounded_and_a_closed_page_frees_its_place() -> None:
    async with ChangingAgent() as agent, aiohttp.ClientSession() as http:
        url = f"http://{agent.server.address}/events"
        pages = [await http.get(url) for _ in range(MAX_SUBSCRIBERS)]
        async with http.get(url) as response:
            assert response.status == 503
            assert "open pages" in await response.text()
        pages[0].close()
        async with asyncio.timeout(20):
            while (another := await http.get(url)).status == 503:
                another.close()
                await read_state(pages[1])  # the server notices a closed page at the next event
            await read_state(another)
        for page in (*pages, another):
            page.close()


@in_virtual_time
async def test_subscriber_that_does_not_read_is_dropped() -> None:
    # The state is large, so that it exceeds the buffers of the kernel.
    async with ChangingAgent(offered=["m" * 1_000_000] * 16) as agent:
        host, _, port = agent.server.address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1)
        writer.write(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        began = now()
        await asyncio.sleep(WRITE_S + 1)
        pages = agent.server._pages
        assert pages is not None
        assert pages._events.subscribers == 0
        assert now() - began == WRITE_S + 1
        writer.close()
