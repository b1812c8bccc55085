"""Commands over HTTP: who may send them, and what else is refused."""

import asyncio
import gzip
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from provider_agent.agent.availability.hours import ServingHours
from provider_agent.agent.availability.schedule import Schedule
from provider_agent.agent.control.commands import Commands, Reply
from provider_agent.agent.control.endpoint import MAX_BODY_BYTES
from provider_agent.agent.control.local_control import LocalControl
from provider_agent.agent.control.pause_store import PauseStore
from provider_agent.agent.control.signature import (
    PATH,
    SIGNATURE_HEADER,
    TIME_HEADER,
    SignatureCheck,
    signed_message,
)
from provider_agent.agent.identity.key import Identity
from provider_agent.agent.telemetry.metrics import Metrics
from provider_agent.agent.telemetry.status_server import StatusServer
from provider_agent.protocol.ed25519 import PrivateKey
from tests.kit.cli_agent import READY

PAUSE = b'{"action":"pause"}'


class Agent:
    """A status server that accepts commands, and a client with its key."""

    def __init__(self, folder: Path) -> None:
        self.identity = Identity(PrivateKey.generate())
        self.hours = ServingHours(Schedule(), on_backends=lambda _suspended: None)
        commands = Commands(
            self.hours,
            PauseStore(folder / "key"),
            backends=dict,
            in_flight=lambda: 0,
            stopping=lambda: False,
        )
        control = LocalControl(SignatureCheck(self.identity.public_key), commands)
        self.server = StatusServer(
            "127.0.0.1:0", lambda: READY, Metrics(), self.identity.fingerprint, control=control
        )

    @property
    def paused(self) -> bool:
        return self.hours.closed.is_set()

    def signed(self, body: bytes = PAUSE) -> dict[str, str]:
        time_ns, port = time.time_ns(), int(self.server.address.rpartition(":")[2])
        signature = self.identity.sign(signed_message(PATH, port, time_ns, body)).hex()
        return {TIME_HEADER: str(time_ns), SIGNATURE_HEADER: signature}

    async def send(
        self, headers: dict[str, str], body: bytes = PAUSE, method: str = "POST", **settings: Any
    ) -> tuple[int, Reply]:
        url = f"http://{self.server.address}{PATH}"
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, data=body, headers=headers, **settings) as response,
        ):
            return response.status, msgspec.json.decode(await response.read(), type=Reply)


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    running = Agent(tmp_path)
    running.server.listen()
    await running.server.serve()
    try:
        yield running
    finally:
        await running.server.stop()


async def test_signed_command_is_carried_out_once(agent: Agent) -> None:
    headers = agent.signed()
    status, reply = await agent.send(headers)
    assert (status, reply.ok, agent.paused) == (200, True, True)
    status, reply = await agent.send(headers)
    assert (status, reply.message) == (401, "the command was received before")


@pytest.mark.parametrize(
    "extra",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8490"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Mode": "no-cors"},
        {"Host": "evil.example"},
        {"Host": "evil.example:8490"},
        {"Host": "192.168.1.5:8490"},
    ],
)
async def test_command_of_a_web_page_is_refused(extra: dict[str, str], agent: Agent) -> None:
    url = f"http://{agent.server.address}{PATH}"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=PAUSE, headers={**agent.signed(), **extra}) as response,
    ):
        assert response.status in (403, 421)
    assert not agent.paused


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods_are_refused(method: str, agent: Agent) -> None:
    url = f"http://{agent.server.address}{PATH}"
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, headers=agent.signed(b"")) as response,
    ):
        assert (response.status, response.headers["Allow"]) == (405, "POST")
        assert not any(name.startswith("Access-Control") for name in response.headers)
    assert not agent.paused


async def test_command_without_a_signature_is_refused(agent: Agent) -> None:
    status, reply = await agent.send({})
    assert (status, reply.message) == (401, "the command is not signed with the agent's key")
    assert not agent.paused


async def test_other_body_than_the_signed_one_is_refused(agent: Agent) -> None:
    status, _ = await agent.send(agent.signed(b'{"action":"resume"}'))
    assert status == 401
    assert not agent.paused


async def test_long_body_is_refused(agent: Agent) -> None:
    body = b" " * (MAX_BODY_BYTES + 1)
    status, reply = await agent.send(agent.signed(body), body)
    assert (status, reply.message) == (413, "the command is too long")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"action":"stop"}', b'{"action":"pause","for_s":-1}', b'{"x":1}']
)
async def test_unknown_command_is_refused(body: bytes, agent: Agent) -> None:
    status, reply = await agent.send(agent.signed(body), body)
    assert status == 400
    assert reply.message.startswith("the agent does not know this command: ")
    assert not agent.paused


@pytest.mark.parametrize("path", [PATH, "/log"])
async def test_request_without_a_host_asks_no_resolver(
    path: str, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Regression: anyone who reached the port could block the event loop by such requests.
    asked: list[str] = []
    monkeypatch.setattr(socket, "getfqdn", lambda: asked.append(path))
    host, _, port = agent.server.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    response = await reader.read()
    writer.close()
    assert response.startswith(b"HTTP/1.0 403 ")
    assert asked == []


async def test_compressed_body_is_not_decompressed(agent: Agent) -> None:
    body = gzip.compress(PAUSE)
    headers = {**agent.signed(), "Content-Encoding": "gzip"}
    status, reply = await agent.send(headers, body)
    assert (status, reply.message) == (401, "the command is not signed with the agent's key")
