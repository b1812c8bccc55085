import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
from msgspec.structs import replace

from provider_agent.agent.telemetry.logs import (
    MAX_RECENT_CHARS,
    RECENT_LINES,
    JsonFormatter,
    TextFormatter,
    recent_lines,
)
from provider_agent.agent.telemetry.metrics import Metrics
from provider_agent.agent.telemetry.status import BackendStatus, StatusSnapshot
from provider_agent.agent.telemetry.status_pages import KEEP_ALIVE_S, MAX_CONNECTIONS
from provider_agent.agent.telemetry.status_server import StatusServer, StatusServerError
from tests.kit.cli_agent import free_ports
from tests.kit.loops import on_both_loops
from tests.kit.virtual_time import in_virtual_time, now


class FakeAgent:
    def __init__(self) -> None:
        self.state = StatusSnapshot(
            version="1",
            uptime_s=2.5,
            link="connected",
            coordinator_url="wss://c.example",
            backends=[BackendStatus(id="echo", kind="echo", healthy=True, models=1)],
        )

    def status(self) -> StatusSnapshot:
        return self.state


@pytest.fixture
def agent() -> FakeAgent:
    return FakeAgent()


@pytest.fixture
async def server(agent: FakeAgent) -> AsyncIterator[StatusServer]:
    server = StatusServer("127.0.0.1:0", agent.status, Metrics())
    server.listen()
    await server.serve()
    yield server
    await server.stop()


async def get(server: StatusServer, path: str) -> tuple[int, str, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{server.address}{path}") as response,
    ):
        return response.status, response.content_type, await response.text()


async def test_livez_succeeds_in_any_state(server: StatusServer, agent: FakeAgent) -> None:
    agent.state = replace(agent.state, draining=True, link="connecting")
    assert await get(server, "/livez") == (200, "text/plain", "ok\n")


async def test_readyz_responds_503_with_the_reasons(server: StatusServer, agent: FakeAgent) -> None:
    assert await get(server, "/readyz") == (200, "text/plain", "ready\n")
    agent.state = replace(agent.state, draining=True, backends=[])
    status, _, text = await get(server, "/readyz")
    assert status == 503
    assert [line.partition(":")[0] for line in text.splitlines()] == ["draining", "no backend"]


async def test_metrics_and_status_show_the_same_state(
    server: StatusServer, agent: FakeAgent
) -> None:
    agent.state = replace(agent.state, in_flight=3)
    status, content_type, text = await get(server, "/metrics")
    assert (status, content_type) == (200, "text/plain")
    assert "provider_agent_in_flight 3.0" in text.splitlines()
    status, content_type, text = await get(server, "/status")
    assert (status, content_type) == (200, "application/json")
    shown = json.loads(text)
    assert shown["in_flight"] == 3
    assert shown["backends"][0]["id"] == "echo"
    assert shown["stats"]["error_rate"] is None


async def test_unknown_paths_and_methods_are_refused(server: StatusServer) -> None:
    assert (await get(server, "/unknown"))[0] == 404
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{server.address}/status") as response,
    ):
        assert response.status == 405


async def connect(
    server: StatusServer, sent: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(sent)
    return reader, writer


async def test_idle_connections_do_not_exclude_a_probe(server: StatusServer) -> None:
    # There was no limit: idle connections used up the agent's open files.
    idle = [await connect(server) for _ in range(MAX_CONNECTIONS + 3)]
    assert (await get(server, "/livez"))[0] == 200
    for reader, _ in idle[:4]:
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    for _, writer in idle:
        writer.close()


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /livez HTTP/1.1\r\nHost: a\r\nX: ", b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"],
    ids=["no request", "incomplete request", "after a response"],
)
@in_virtual_time
async def test_idle_connection_is_closed(sent: bytes) -> None:
    agent = FakeAgent()
    server = StatusServer("127.0.0.1:0", agent.status, Metrics())
    server.listen()
    await server.serve()
    began = now()
    reader, writer = await connect(server, sent)
    assert (await reader.read()).startswith(b"HTTP/1.1 200" if sent.endswith(b"\n\r\n") else b"")
    assert now() - began == pytest.approx(KEEP_ALIVE_S, abs=1)
    writer.close()
    await server.stop()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /livez HTTP/1.1\r\nA secret: b\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"400"),
        (b"POST /status HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{", b"405"),
    ],
    ids=["malformed header", "long path", "endless body"],
)
async def test_invalid_request_is_refused_at_once_without_a_log_line(
    sent: bytes, status: bytes, server: StatusServer, caplog: pytest.LogCaptureFixture
) -> None:
    # Each one wrote a traceback that quoted the request.
    with caplog.at_level(logging.INFO):
        reader, writer = await connect(server, sent)
        response = await reader.read()
        writer.close()
    assert response.split()[1] == status
    assert not caplog.records


@on_both_loops
async def test_early_connection_waits_until_the_server_serves() -> None:
    server = StatusServer("127.0.0.1:0", FakeAgent().status, Metrics())
    server.listen()
    waiting = asyncio.create_task(server.wait_for_connection())
    await asyncio.sleep(0)
    assert not waiting.done()
    reader, writer = await connect(server, b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
    await waiting
    await server.serve()
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    writer.close()
    await server.stop()


async def test_early_connection_is_closed_if_the_server_stops(agent: FakeAgent) -> None:
    server = StatusServer("127.0.0.1:0", agent.status, Metrics())
    server.listen()
    reader, writer = await connect(server)
    await server.stop()
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()


async def test_listening_on_a_name_listens_on_all_its_addresses(agent: FakeAgent) -> None:
    server = StatusServer("localhost:0", agent.status, Metrics())
    server.listen()
    await server.serve()
    assert (await get(server, "/livez"))[0] == 200
    await server.stop()


async def test_start_on_an_address_in_use_raises_with_advice(agent: FakeAgent) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        server = StatusServer(address, agent.status, Metrics())
        with pytest.raises(StatusServerError) as caught:
            server.listen()
    assert f"cannot listen on {address}: " in str(caught.value)
    assert "already in use" in str(caught.value)
    assert "another provider-agent may be running" in caught.value.advice
    assert "--prometheus-addr off" in caught.value.advice
    assert "observability.prometheus_addr" in caught.value.advice


async def test_other_failure_to_listen_does_not_suggest_another_agent(agent: FakeAgent) -> None:
    server = StatusServer("192.0.2.1:0", agent.status, Metrics())  # no address of this machine
    with pytest.raises(StatusServerError) as caught:
        server.listen()
    assert "another provider-agent" not in str(caught.value)
    assert "--prometheus-addr" in caught.value.advice


async def test_stop_is_idempotent_and_frees_the_address(
    agent: FakeAgent,
) -> None:
    server = StatusServer("127.0.0.1:0", agent.status, Metrics())
    await server.stop()
    server.listen()
    address = server.address
    assert repr(server) == f"<StatusServer {address} listening>"
    await server.serve()
    assert repr(server) == f"<StatusServer {address} serving>"
    await server.stop()
    await server.stop()
    second = StatusServer(address, agent.status, Metrics())
    second.listen()
    await second.stop()


async def test_next_free_port_of_a_range_is_used_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ports = free_ports(3)
    address = f"127.0.0.1:{ports[0]}-{ports[-1]}"
    server = StatusServer(address, FakeAgent().status, Metrics())
    assert server.address == address
    with socket.create_server(("127.0.0.1", ports[0])), caplog.at_level(logging.INFO):
        server.listen()
    assert server.address == f"127.0.0.1:{ports[1]}"
    (record,) = caplog.records
    assert vars(record)["fields"] == {"address": server.address, "ports_in_use": [ports[0]]}
    await server.stop()


async def test_range_without_a_free_port_is_an_error() -> None:
    ports = free_ports(2)
    server = StatusServer(f"127.0.0.1:{ports[0]}-{ports[1]}", FakeAgent().status, Metrics())
    with (
        socket.create_server(("127.0.0.1", ports[0])),
        socket.create_server(("127.0.0.1", ports[1])),
        pytest.raises(StatusServerError) as caught,
    ):
        server.listen()
    assert f"cannot listen on 127.0.0.1:{ports[0]}-{ports[1]}: " in str(caught.value)


@pytest.mark.parametrize(
    "headers", [{"Host": "10.0.0.7"}, {"x-forwarded-for": "10.0.0.7"}, {"via": "1.1 proxy"}]
)
async def test_log_has_the_last_lines_and_is_for_this_machine_only(
    headers: dict[str, str], server: StatusServer
) -> None:
    TextFormatter(()).format(logging.LogRecord("n", logging.INFO, "", 0, "an event", None, None))
    status, content_type, text = await get(server, "/log")
    assert (status, content_type) == (200, "text/plain")
    assert text.endswith(" INFO n an event\n")
    assert len(text.splitlines()) <= RECENT_LINES
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{server.address}/log", headers=headers) as response,
    ):
        assert response.status == 403
        assert "an event" not in await response.text()


def test_last_lines_are_bounded() -> None:
    for number in range(2 * RECENT_LINES):
        text = f"{number} {'x' * 2 * MAX_RECENT_CHARS}"
        JsonFormatter(()).format(logging.LogRecord("n", logging.INFO, "", 0, text, None, None))
    lines = recent_lines()
    assert len(lines) == RECENT_LINES
    assert all(len(line) == MAX_RECENT_CHARS for line in lines)
    assert f'"event":"{2 * RECENT_LINES - 1} x' in lines[-1]
