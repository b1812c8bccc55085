import asyncio
import logging
import os
import signal
import socket
from contextlib import ExitStack

import aiohttp
import msgspec
import pytest

from provider_agent.coordinator.exceptions import CannotListen, SettingsError
from provider_agent.coordinator.server import Coordinator, run
from provider_agent.coordinator.settings import CoordinatorSettings
from tests.kit.coordinator_harness import (
    JSON_HEADERS,
    NO_HEARTBEATS,
    coordinator_harness,
    wait_until,
    warning_events,
)
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.virtual_time import in_virtual_time
from tests.unit.coordinator.http.test_request_record import finished

CHAT = "/v1/chat/completions"
BODY = b'{"model":"tiny"}'


async def test_addresses_contain_the_bound_port(coordinator: Coordinator) -> None:
    assert coordinator.http_url == f"http://{coordinator.authority}"
    assert coordinator.connect_url == f"ws://{coordinator.authority}/provider/connect"
    assert not coordinator.authority.endswith(":0")
    assert coordinator.authority in coordinator.authorities


async def test_agents_returns_the_connected_agents(coordinator: Coordinator) -> None:
    assert coordinator.agents() == []
    async with ScriptedAgent(coordinator.connect_url):
        (snapshot,) = coordinator.agents()
        assert snapshot.models == {"tiny": ("chat", "messages")}


async def test_port_in_use_raises_cannot_listen(coordinator: Coordinator) -> None:
    port = int(coordinator.http_url.rpartition(":")[2])
    with pytest.raises(CannotListen, match=f"cannot listen on 127.0.0.1:{port}: "):
        await Coordinator(CoordinatorSettings(port=port)).start()


async def test_clients_that_connect_at_once_all_find_room_in_the_queue_of_the_socket(
    coordinator: Coordinator,
) -> None:
    # The queue held 100: of 256 clients that connected at once, most waited for a second until
    # their kernel repeated the SYN.
    host, _, port = coordinator.authority.partition(":")
    with ExitStack() as opened:
        for _ in range(256):  # the event loop accepts none meanwhile
            client = opened.enter_context(socket.create_connection((host, int(port)), timeout=0.5))
            assert client.getpeername()[1] == int(port)


async def test_unsafe_settings_prevent_the_start() -> None:
    with pytest.raises(SettingsError):
        await Coordinator(CoordinatorSettings(host="0.0.0.0", port=0)).start()


async def test_stop_waits_for_running_requests(settings: CoordinatorSettings) -> None:
    patient = msgspec.structs.replace(settings, drain_s=30.0)
    async with (
        aiohttp.ClientSession(headers=JSON_HEADERS) as http,
        Coordinator(patient) as coordinator,
        ScriptedAgent(coordinator.connect_url) as agent,
    ):
        asking = asyncio.create_task(http.post(coordinator.http_url + CHAT, data=BODY))
        job = await agent.next_job()
        stopping = asyncio.create_task(coordinator.stop())
        await job.answer(b"data: 1\n\n")
        response = await asking
        assert await response.read() == b"data: 1\n\n"
        await stopping
        await agent.closed.wait()
        assert agent.drain is not None
        assert agent.socket.close_code == 1001


async def test_stop_ends_requests_with_an_error_after_drain_s(
    settings: CoordinatorSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        aiohttp.ClientSession(headers=JSON_HEADERS) as http,
        Coordinator(settings) as coordinator,
        ScriptedAgent(coordinator.connect_url) as agent,
    ):
        asking = asyncio.create_task(http.post(coordinator.http_url + CHAT, data=BODY))
        job = await agent.next_job()
        await coordinator.stop()
        response = await asking
        await agent.closed.wait()
        assert job.cancelled.is_set(), "the agent would generate the rest of the response"
        assert response.status == 503
        assert (await response.json())["error"]["message"] == "The coordinator is stopping."
    fields = {record.message: getattr(record, "fields", {}) for record in caplog.records}
    assert fields["coordinator stopping"] == {"requests": 1, "agents": 1, "drain_timeout_s": 0}
    assert fields["coordinator stopped"] == {"interrupted_requests": 1}
    assert fields["request finished"]["reason"] == "coordinator_stopping"


@in_virtual_time
async def test_agent_can_resume_but_not_start_a_session_while_the_coordinator_stops() -> None:
    async with coordinator_harness(msgspec.structs.replace(NO_HEARTBEATS, drain_s=30.0)) as harness:
        job, response = await harness.start_response(b"1\n\n")
        stopping = asyncio.create_task(harness.coordinator.stop())
        while harness.agent.drain is None:
            await harness.agent.settle()
        first = harness.agent.drain
        await harness.agent.lose_link()
        async with harness.other_process("two") as other:
            assert other.rejected is not None
            assert other.rejected.code == "draining"
            assert other.rejected.retry_after_ms
        await harness.agent.reconnect()
        assert harness.agent.drain is not first, "the new link receives its own `Drain`"
        await job.send(b"2")
        await job.finish()
        assert await response.read() == b"2"
        await stopping


@in_virtual_time
async def test_stop_ends_detached_sessions(settings: CoordinatorSettings) -> None:
    async with coordinator_harness(settings) as harness:
        _, response = await harness.start_response(b"1\n\n")
        await harness.agent.lose_link()
        await wait_until(lambda: bool(harness.coordinator.detached_sessions()))
        await harness.coordinator.stop()
        assert harness.coordinator.detached_sessions() == []
        assert b"The coordinator is stopping." in await response.read()


async def test_stop_of_a_coordinator_that_was_not_started_does_nothing() -> None:
    await Coordinator().stop()


async def test_run_calls_started_and_serves_until_a_signal(settings: CoordinatorSettings) -> None:
    started_with: list[Coordinator] = []

    def started(coordinator: Coordinator) -> None:
        started_with.append(coordinator)
        os.kill(os.getpid(), signal.SIGTERM)

    await run(settings, started)
    assert len(started_with) == 1


async def test_second_signal_cancels_the_wait_for_running_requests(
    settings: CoordinatorSettings, caplog: pytest.LogCaptureFixture
) -> None:
    # Regression: the log said that the client had disconnected.
    caplog.set_level(logging.INFO)
    patient = msgspec.structs.replace(settings, drain_s=30.0)
    listening: asyncio.Future[Coordinator] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(run(patient, listening.set_result))
    coordinator = await listening
    async with (
        aiohttp.ClientSession(headers=JSON_HEADERS) as http,
        ScriptedAgent(coordinator.connect_url) as agent,
    ):
        asking = asyncio.create_task(http.post(coordinator.http_url + CHAT, data=BODY))
        await agent.next_job()
        os.kill(os.getpid(), signal.SIGTERM)
        while agent.drain is None:
            await agent.settle()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(asyncio.CancelledError):
            await running
        asking.cancel()
        await wait_until(lambda: bool(finished(caplog.records)))
    (line,) = finished(caplog.records)
    assert (line["code"], line["reason"]) == ("draining", "coordinator_stopping")
    fields = {record.message: getattr(record, "fields", {}) for record in caplog.records}
    assert fields["coordinator stopped"] == {"interrupted_requests": 1}
    assert "second signal, the stop does not wait any longer" in warning_events(caplog.records)
