import asyncio
import contextlib
import logging
from urllib.parse import urlsplit

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from provider_agent.coordinator.access import SecretSet
from provider_agent.coordinator.agents import link as agent_link
from provider_agent.coordinator.connections.limited_log import MAX_LINES, PERIOD_S
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.frames import Ack, Chunk, Draining, JobResult, Usage
from provider_agent.protocol.limits import (
    CONNECT_PATH,
    KIB,
    MAX_MESSAGE_TO_COORDINATOR_BYTES,
    REPLACED,
    SUBPROTOCOL,
    WINDOW_BYTES,
)
from tests.kit.coordinator_harness import NO_HEARTBEATS, coordinator_harness
from tests.kit.fault_proxy import FaultProxy
from tests.kit.scripted_agent import ScriptedAgent, offer
from tests.kit.virtual_time import in_virtual_time, now

LOGGER = "provider_agent.coordinator.agents"


async def close_code(agent: ScriptedAgent) -> int | None:
    """Wait until the connection is closed; return the coordinator's close code."""
    await agent.closed.wait()
    return agent.socket.close_code


@pytest.mark.parametrize(
    ("message", "code"),
    [
        pytest.param(b"secret prompt", 1002, id="not MessagePack"),
        pytest.param(b"", 1002, id="empty"),
        pytest.param(b"\x90", 1002, id="no frames"),
        pytest.param("text", 1002, id="text message"),
        pytest.param(msgspec.msgpack.encode([[35, "not a number"]]), 1002, id="wrong field type"),
        pytest.param(
            msgspec.msgpack.encode([Chunk(bytes(16), 0, b"early")] * 2 + [["x"]]),
            1002,
            id="invalid last frame",
        ),
        pytest.param(bytes(MAX_MESSAGE_TO_COORDINATOR_BYTES + 1), 1009, id="1 byte too long"),
        pytest.param(bytes(MAX_MESSAGE_TO_COORDINATOR_BYTES + 2), 1009, id="2 bytes too long"),
    ],
)
async def test_malformed_message_closes_the_connection_and_logs_no_content(
    coordinator: Coordinator,
    caplog: pytest.LogCaptureFixture,
    message: bytes | str,
    code: int,
) -> None:
    with caplog.at_level(logging.INFO, "provider_agent.coordinator"):
        async with ScriptedAgent(coordinator.connect_url) as agent:
            with contextlib.suppress(ConnectionClosed):  # closed during the send
                await agent.send_raw(message)
            assert await close_code(agent) == code
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.message for record in warnings] == ["protocol error from agent"]
    assert "secret" not in str([vars(record) for record in caplog.records])
    assert coordinator.agents() == []


async def test_message_of_the_maximum_size_is_accepted(coordinator: Coordinator) -> None:
    filler = MAX_MESSAGE_TO_COORDINATOR_BYTES - len(msgspec.msgpack.encode([[63, b""]])) - 3
    message = msgspec.msgpack.encode([[63, bytes(filler)]])
    assert len(message) == MAX_MESSAGE_TO_COORDINATOR_BYTES
    async with ScriptedAgent(coordinator.connect_url) as agent:
        await agent.send_raw(message)
        await agent.settle()
        assert coordinator.agents()[0].unknown_frames == 1


async def test_connection_of_a_silent_agent_is_closed(settings: CoordinatorSettings) -> None:
    quick = msgspec.structs.replace(settings, heartbeat_ms=100)
    async with (
        Coordinator(quick) as coordinator,
        ScriptedAgent(coordinator.connect_url) as agent,
    ):
        assert await close_code(agent) == 1008
        assert "silent" in (agent.socket.close_reason or "")


async def test_connection_without_hello_is_closed_after_the_handshake_timeout(
    settings: CoordinatorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait_for_close(agent: ScriptedAgent) -> None:
        await agent.socket.wait_closed()
        assert agent.socket.close_code == 1008

    monkeypatch.setattr(ScriptedAgent, "_handshake", wait_for_close)
    quick = msgspec.structs.replace(settings, handshake_timeout_s=0.01)
    async with Coordinator(quick) as coordinator, ScriptedAgent(coordinator.connect_url):
        assert coordinator.agents() == []


async def test_connection_with_too_many_queued_frames_is_closed(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_link, "MAX_QUEUED_FRAMES", 10)
    unknown_end = JobResult(bytes(16), 0, Usage(None, None), "b", 0, None)
    async with ScriptedAgent(coordinator.connect_url) as agent:
        await agent.send(*[unknown_end] * 11)
        assert await close_code(agent) == 1008


async def test_newer_connection_of_the_same_key_replaces_the_older_one(
    coordinator: Coordinator,
) -> None:
    async with (
        ScriptedAgent(coordinator.connect_url) as older,
        ScriptedAgent(coordinator.connect_url, key=older.key) as newer,
    ):
        assert await close_code(older) == REPLACED
        await newer.settle()
        assert len(coordinator.agents()) == 1


async def test_agent_that_closes_its_connection_leaves_the_fleet(coordinator: Coordinator) -> None:
    async with ScriptedAgent(coordinator.connect_url) as agent:
        assert len(coordinator.agents()) == 1
        await agent.socket.close()
        assert coordinator.agents() == []


async def test_end_of_each_connection_is_logged_once(
    coordinator: Coordinator, caplog: pytest.LogCaptureFixture
) -> None:
    # Regression: nothing was logged when aiohttp cancelled the handler before the handler had read
    # the close frame.
    with caplog.at_level(logging.INFO, "provider_agent.coordinator"):
        async with ScriptedAgent(coordinator.connect_url) as agent:
            await agent.send(Draining(1000), Draining(500))
            await agent.settle()
            await agent.socket.close()
        async with ScriptedAgent(coordinator.connect_url) as other:
            await other.lose_link()
    logged = [
        (record.message, vars(record)["fields"].get("code"))
        for record in caplog.records
        if record.message in ("agent draining", "agent link closed")
    ]
    assert logged == [
        ("agent draining", None),
        ("agent link closed", 1000),
        ("agent link closed", 1006),
    ]


async def test_peer_without_an_identity_is_logged_with_its_address(
    coordinator: Coordinator, caplog: pytest.LogCaptureFixture
) -> None:
    # `provider-agent check` connects and sends no `Hello`.
    with caplog.at_level(logging.INFO, "provider_agent.coordinator"):
        protocols = [Subprotocol(SUBPROTOCOL)]
        async with connect(coordinator.connect_url, subprotocols=protocols, proxy=None) as socket:
            await socket.close()
    (line,) = [one for one in caplog.records if one.message == "agent link closed"]
    fields = vars(line)["fields"]
    assert fields == {"address": "127.0.0.1", "code": 1000, "reason": fields["reason"]}


async def test_rejected_is_sent_before_the_close_frame_and_logged_with_its_reason(
    coordinator: Coordinator, caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedAgent(coordinator.connect_url, authority="evil.example:443") as agent:
        assert agent.rejected is not None
        assert agent.rejected.code == "bad_signature"
        assert await close_code(agent) == 1008
        assert coordinator.agents() == []
    (line,) = [record for record in caplog.records if record.message == "agent rejected"]
    fields = vars(line)["fields"]
    assert (fields["code"], fields["address"]) == ("bad_signature", "127.0.0.1")
    assert fields["host"] == urlsplit(coordinator.connect_url).netloc
    assert "dialed an address that is not in this coordinator's list" in fields["reason"]


@pytest.mark.parametrize(
    ("message", "events"),
    [
        (None, ["agent rejected", "agent link closed"]),
        (b"\x90", ["protocol error from agent", "agent link closed"]),
    ],
    ids=["rejected", "malformed"],
)
@in_virtual_time
async def test_peers_that_are_not_admitted_cannot_fill_the_log(
    caplog: pytest.LogCaptureFixture, message: bytes | None, events: list[str]
) -> None:
    async def be_refused(coordinator: Coordinator) -> None:
        if message is None:
            async with ScriptedAgent(coordinator.connect_url) as agent:
                assert agent.rejected is not None
            return
        protocols = [Subprotocol(SUBPROTOCOL)]
        async with connect(coordinator.connect_url, subprotocols=protocols, proxy=None) as socket:
            await socket.send(message)
            await socket.wait_closed()

    def logged() -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.name.startswith(LOGGER)]

    settings = CoordinatorSettings(port=0, drain_s=0, enrollment_codes=SecretSet(["code"]))
    async with Coordinator(settings, clock=now) as coordinator:
        with caplog.at_level(logging.INFO, LOGGER):
            for _ in range(MAX_LINES // 2 + 3):
                await be_refused(coordinator)
            assert [record.message for record in logged()] == events * (MAX_LINES // 2)
            caplog.clear()
            await asyncio.sleep(PERIOD_S)
            await be_refused(coordinator)
            assert [record.message for record in logged()] == events
            assert vars(logged()[0])["fields"]["omitted"] == 6


async def test_admitted_agent_that_reconnects_in_a_loop_cannot_fill_the_log(
    coordinator: Coordinator, caplog: pytest.LogCaptureFixture
) -> None:
    # Every connection of an admitted agent wrote several lines.
    with caplog.at_level(logging.INFO, LOGGER):
        key = Ed25519PrivateKey.generate()
        for _ in range(MAX_LINES):
            async with ScriptedAgent(coordinator.connect_url, key=key) as agent:
                await agent.socket.close()
        async with ScriptedAgent(coordinator.connect_url) as other:
            await other.socket.close()
    lines = [vars(record)["fields"].get("agent") for record in caplog.records]
    repeated = max(set(lines), key=lines.count)
    assert lines.count(repeated) <= MAX_LINES
    assert lines[-2:] == [lines[-1]] * 2
    assert lines[-1] != repeated, "another agent has its own limit"


@in_virtual_time
async def test_agent_whose_message_arrives_slowly_is_not_silent() -> None:
    # Regression: only a complete message counted as activity, so an agent on a slow link was
    # disconnected.
    settings = replace(NO_HEARTBEATS, heartbeat_ms=10_000)
    async with (
        Coordinator(settings, clock=now) as coordinator,
        FaultProxy(urlsplit(coordinator.http_url).port or 0) as proxy,
        ScriptedAgent(
            f"ws://{proxy.authority}{CONNECT_PATH}", authority=coordinator.authorities[0]
        ) as agent,
    ):
        (connection,) = proxy.connections
        for pipe in connection.pipes:
            pipe.bytes_per_s = 10_000
        began = now()
        await agent.advertise(*(offer(f"{number}-{'m' * 500}") for number in range(1800)))
        assert now() - began > 60
        assert not agent.closed.is_set()


@in_virtual_time
async def test_bytes_that_were_passed_on_are_acknowledged_within_a_second() -> None:
    # Acknowledgements came only by bytes, so slow streams held a quarter of the window each.
    async with coordinator_harness() as harness:
        streams = [await harness.start_response(b"data: slow\n\n") for _ in range(2)]
        assert harness.agent.acks == []
        await asyncio.sleep(agent_link.ACKNOWLEDGE_S)
        await harness.agent.settle()
        assert harness.agent.acks == [Ack(job.job.job_id, 12) for job, _ in streams]

        await asyncio.sleep(10 * agent_link.ACKNOWLEDGE_S)
        await harness.agent.settle()
        assert len(harness.agent.acks) == 2


@in_virtual_time
async def test_bytes_are_acknowledged_when_a_slow_client_has_read_them() -> None:
    async with coordinator_harness() as harness:
        job, response = await harness.start_response(b"x")
        stream = job.stream
        while stream.written - stream.acked < WINDOW_BYTES // 2:  # until all buffers are full
            await job.send(bytes(128 * KIB))
            await asyncio.sleep(2 * agent_link.ACKNOWLEDGE_S)
            await harness.agent.settle()
        await asyncio.sleep(5 * agent_link.ACKNOWLEDGE_S)
        assert stream.acked < stream.written

        await response.content.readexactly(stream.written - 1)
        await asyncio.sleep(agent_link.ACKNOWLEDGE_S)
        await harness.agent.settle()
        assert stream.acked == stream.written
