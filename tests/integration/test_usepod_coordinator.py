"""The reference coordinator with agents of the Use Pod dialect, over real WebSockets and HTTP."""

import asyncio
import base64
import io
import json
import logging
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from provider_agent.coordinator.access import SecretSet
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings, ExtraDialect
from provider_agent.protocol.limits import CONNECT_PATH, MIB, SUBPROTOCOL
from tests.kit.scripted_agent import ScriptedAgent
from tests.kit.scripted_usepod_agent import UsepodAgent
from tests.kit.virtual_time import in_virtual_time, now

CHAT = "/v1/chat/completions"
SETTINGS = CoordinatorSettings(
    port=0, drain_s=0, queue_s=0, dialects=frozenset({ExtraDialect.USEPOD})
)
REQUEST: dict[str, Any] = {"model": "tiny", "messages": [], "stream": True}
EVENT = b'data: {"choices": []}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.fixture
async def coordinator() -> AsyncIterator[Coordinator]:
    async with Coordinator(SETTINGS) as coordinator:
        yield coordinator


@pytest.fixture
async def http(coordinator: Coordinator) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(coordinator.http_url) as session:
        yield session


@pytest.fixture
async def agent(coordinator: Coordinator) -> AsyncIterator[UsepodAgent]:
    async with UsepodAgent(coordinator.connect_url) as agent:
        await offered(coordinator)
        yield agent


async def offered(coordinator: Coordinator, agents: int = 1) -> None:
    """Wait until so many agents offer models; no event reports it."""
    while sum(bool(agent.models) for agent in coordinator.agents()) != agents:  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def no_jobs(coordinator: Coordinator) -> None:
    """Wait until no job is without an end."""
    while any(agent.in_flight for agent in coordinator.agents()):  # noqa: ASYNC110
        await asyncio.sleep(0.001)


def ask(
    http: aiohttp.ClientSession, path: str = CHAT, **fields: object
) -> "asyncio.Task[tuple[int, bytes]]":
    """Send a request; the task returns the status and the body of the response."""

    async def send() -> tuple[int, bytes]:
        async with http.post(path, json=REQUEST | fields) as response:
            return response.status, await response.read()

    return asyncio.create_task(send())


def error_of(body: bytes) -> tuple[str, str]:
    error = json.loads(body)["error"]
    return error["code"], error["message"]


# --- handshake ------------------------------------------------------------------------------------


async def test_an_agent_without_a_subprotocol_is_served_beside_others(
    coordinator: Coordinator, agent: UsepodAgent, http: aiohttp.ClientSession
) -> None:
    async with ScriptedAgent(coordinator.connect_url):
        await offered(coordinator, 2)
        async with http.get("/status") as response:
            agents = (await response.json())["agents"]
        async with http.get("/metrics") as response:
            metrics = await response.text()

    assert sorted(one["dialect"] for one in agents) == [SUBPROTOCOL, "usepod"]
    assert "coordinator_agents 2.0" in metrics
    assert "coordinator_usepod_agents 1.0" in metrics
    assert agent.messages[1] == {"type": "auth_ok", "provider_id": agent.public_key}


@pytest.mark.parametrize("offered_protocol", [None, "other.v1"])
async def test_other_upgrades_are_refused(
    http: aiohttp.ClientSession, offered_protocol: str | None
) -> None:
    headers = {"Upgrade": "websocket", "Connection": "upgrade"}
    if offered_protocol is not None:
        headers["Sec-WebSocket-Protocol"] = offered_protocol
    settings = replace(SETTINGS, dialects=frozenset())
    async with (
        Coordinator(settings if offered_protocol is None else SETTINGS) as coordinator,
        http.get(coordinator.http_url + CONNECT_PATH, headers=headers) as response,
    ):
        assert response.status == HTTPStatus.BAD_REQUEST
        assert SUBPROTOCOL in await response.text()


async def test_a_wrong_signature_is_refused(coordinator: Coordinator) -> None:
    async with UsepodAgent(coordinator.connect_url, authenticates=False) as agent:
        challenge = await agent.next("auth_challenge")
        nonce = base64.b64decode(challenge["nonce"])
        await agent.send_auth_response(nonce[::-1])
        assert (await agent.next("auth_failed"))["reason"].startswith("bad_signature: ")
        await agent.closed.wait()

    assert len(nonce) == 32
    assert coordinator.agents() == []


async def test_codes_and_keys_admit_agents() -> None:
    key = Ed25519PrivateKey.generate()
    settings = replace(
        SETTINGS,
        enrollment_codes=SecretSet(["POD-1"]),
        agent_keys=frozenset({key.public_key().public_bytes_raw()}),
    )
    async with Coordinator(settings) as coordinator:
        async with UsepodAgent(coordinator.connect_url, enrollment_code="POD-1") as agent:
            assert agent.refusal is None
        async with UsepodAgent(coordinator.connect_url, key=key) as agent:
            assert agent.refusal is None
        async with UsepodAgent(coordinator.connect_url, enrollment_code="POD-2") as agent:
            assert str(agent.refusal).startswith("not_enrolled: This coordinator knows neither ")
        async with UsepodAgent(coordinator.connect_url) as agent:
            assert str(agent.refusal).endswith("the agent sent no enrollment code.")


async def test_an_admitted_agent_comes_back_without_its_code() -> None:
    settings = replace(SETTINGS, enrollment_codes=SecretSet(["POD-1"]))
    async with Coordinator(settings) as coordinator:
        async with UsepodAgent(coordinator.connect_url, enrollment_code="POD-1") as first:
            pass
        async with UsepodAgent(coordinator.connect_url, key=first.key) as agent:
            assert agent.refusal is None


async def test_a_second_agent_with_the_same_key_is_refused_while_the_first_responds(
    coordinator: Coordinator, agent: UsepodAgent
) -> None:
    async with UsepodAgent(coordinator.connect_url, key=agent.key) as second:
        assert str(second.refusal).startswith("key_in_use: ")
    assert not agent.closed.is_set()


@in_virtual_time
async def test_a_silent_agent_is_disconnected_after_three_intervals_of_the_dialect() -> None:
    # The setting applies only to agents of version 1.
    async with (
        Coordinator(replace(SETTINGS, heartbeat_ms=100), clock=now) as coordinator,
        UsepodAgent(coordinator.connect_url) as agent,
    ):
        started_at = now()
        await agent.closed.wait()
        assert 45 <= now() - started_at < 60


# --- jobs -----------------------------------------------------------------------------------------


async def test_a_response_reaches_the_client_byte_for_byte(
    agent: UsepodAgent, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    asking = ask(http, temperature=0.5)
    job = await agent.next("job")
    pieces = [EVENT, b'data: {"a":', b' "\xc3', b'\xa4"}\n\n', DONE]
    for piece in pieces:
        await agent.send_data(job["job_id"], piece)
    await agent.send_done(job["job_id"], 5, 6)

    assert await asking == (200, b"".join(pieces))
    assert (job["model_id"], job["format"]) == ("tiny", "openai")
    assert job["request"] == REQUEST | {"temperature": 0.5}
    assert 590_000 < job["deadline_ms"] <= 600_000
    (ended,) = [one for one in caplog.records if one.message == "job ended"]
    fields = getattr(ended, "fields", {})
    assert (fields["input_tokens"], fields["output_tokens"]) == (5, 6)


async def test_a_disconnected_client_cancels_its_job_and_frees_the_slot(
    coordinator: Coordinator, agent: UsepodAgent, http: aiohttp.ClientSession
) -> None:
    asking = ask(http)
    job_id = await agent.next_job()
    await agent.send_data(job_id, EVENT)
    asking.cancel()

    assert (await agent.next("job_cancel"))["job_id"] == job_id
    await no_jobs(coordinator)  # the agent sends no end
    await agent.send_data(job_id, EVENT)  # this crossed the cancel
    asking = ask(http)
    job_id = await agent.next_job()
    await agent.answer(job_id, EVENT + DONE)
    assert await asking == (200, EVENT + DONE)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("out_of_capacity", 503),
        ("model_not_loaded", 503),
        ("backend_unreachable", 502),
        ("backend_timeout", 504),
        ("auth_rejected_by_backend", 502),
        ("internal", 500),
        ("a later code", 500),
    ],
)
async def test_a_failed_job_is_an_error_for_the_client(
    agent: UsepodAgent, http: aiohttp.ClientSession, code: str, status: int
) -> None:
    asking = ask(http)
    await agent.send_error(await agent.next_job(), code)
    received, body = await asking

    assert received == status
    assert error_of(body)[0] == ("internal" if code == "a later code" else code)


async def test_a_failed_job_runs_on_another_agent(
    coordinator: Coordinator, agent: UsepodAgent, http: aiohttp.ClientSession
) -> None:
    asking = ask(http)
    job_id = await agent.next_job()
    async with ScriptedAgent(coordinator.connect_url) as other:
        await offered(coordinator, 2)
        await agent.send_error(job_id, "backend_unreachable")
        job = await other.next_job()
        await job.answer(EVENT + DONE)
        assert await asking == (200, EVENT + DONE)


async def test_a_response_that_breaks_off_ends_with_an_error_event(
    agent: UsepodAgent, http: aiohttp.ClientSession
) -> None:
    asking = ask(http)
    job_id = await agent.next_job()
    await agent.send_data(job_id, EVENT)
    await agent.send_error(job_id, "internal")
    status, body = await asking

    assert status == 200
    assert body.startswith(EVENT + b"data: ")
    assert error_of(body.removeprefix(EVENT).removeprefix(b"data: "))[0] == "internal"


async def test_an_empty_response_is_an_error(
    agent: UsepodAgent, http: aiohttp.ClientSession
) -> None:
    asking = ask(http)
    await agent.send_done(await agent.next_job())
    status, body = await asking

    assert (status, error_of(body)[0]) == (502, "invalid_response")


# --- what these agents cannot do ------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, None, 1])
async def test_a_request_without_a_stream_goes_to_another_agent_or_is_refused(
    coordinator: Coordinator,
    agent: UsepodAgent,
    http: aiohttp.ClientSession,
    stream: object,
) -> None:
    status, body = await ask(http, stream=stream)
    code, message = error_of(body)

    assert (status, code) == (400, "format_not_supported")
    assert '`"stream": true`' in message
    async with ScriptedAgent(coordinator.connect_url) as other:
        await offered(coordinator, 2)
        asking = ask(http, stream=stream)
        await (await other.next_job()).answer(b"{}", content_type="application/json")
        assert await asking == (200, b"{}")
    assert "job" not in {one["type"] for one in agent.messages}


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/embeddings", "/v1/responses"])
async def test_other_operations_go_to_another_agent_or_are_refused(
    agent: UsepodAgent, http: aiohttp.ClientSession, path: str
) -> None:
    status, body = await ask(http, path)

    assert status == 400
    assert "is offered, but not for" in body.decode()
    assert "job" not in {one["type"] for one in agent.messages}


async def test_a_waiting_request_without_a_stream_does_not_hold_up_others() -> None:
    settings = replace(SETTINGS, queue_s=30)
    async with (
        Coordinator(settings) as coordinator,
        aiohttp.ClientSession(coordinator.http_url) as http,
        ScriptedAgent(coordinator.connect_url, max_concurrent=1) as full,
        UsepodAgent(coordinator.connect_url) as agent,
    ):
        await offered(coordinator, 2)
        asking = ask(http, stream=False)
        job = await full.next_job()
        waiting = ask(http, stream=False)
        while not coordinator.queued:  # noqa: ASYNC110 - no event reports it
            await asyncio.sleep(0.001)
        streamed = ask(http)
        job_id = await agent.next_job()
        await agent.answer(job_id, DONE)
        assert await streamed == (200, DONE)
        await job.answer(b"{}", content_type="application/json")
        await (await full.next_job()).answer(b"{}", content_type="application/json")
        assert {await asking, await waiting} == {(200, b"{}")}


async def test_a_request_that_is_not_utf_8_fails_alone(
    agent: UsepodAgent, http: aiohttp.ClientSession
) -> None:
    other = ask(http)
    job_id = await agent.next_job()
    body = b'{"model":"tiny","stream":true,"x":"\xff"}'
    headers = {"Content-Type": "application/json"}
    async with http.post(CHAT, data=body, headers=headers) as response:
        assert response.status == 400
        assert "UTF-8" in error_of(await response.read())[1]
    await agent.answer(job_id, DONE)

    assert await other == (200, DONE)


async def test_a_large_request_arrives_in_one_message(
    agent: UsepodAgent, http: aiohttp.ClientSession
) -> None:
    body = io.BytesIO(json.dumps(REQUEST | {"padding": "x" * (4 * MIB)}).encode())
    headers = {"Content-Type": "application/json"}
    posting = asyncio.create_task(http.post(CHAT, data=body, headers=headers))
    job = await agent.next("job")
    await agent.answer(job["job_id"], DONE)

    assert len(job["request"]["padding"]) == 4 * MIB
    assert await (await posting).read() == DONE


async def test_a_request_that_no_message_can_hold_receives_413(
    http: aiohttp.ClientSession, agent: UsepodAgent
) -> None:
    # The client received 400, as for a malformed request.
    request = json.dumps(REQUEST | {"padding": "x" * (16 * MIB - 100)}).encode()
    headers = {"Content-Type": "application/json"}
    async with http.post(CHAT, data=io.BytesIO(request), headers=headers) as response:
        assert response.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        code, message = error_of(await response.read())
    assert (code, message) == ("bad_request", "The request is too large for the provider.")

    answered = ask(http)
    await agent.answer(await agent.next_job(), EVENT)
    assert await answered == (HTTPStatus.OK, EVENT)


# --- the link -------------------------------------------------------------------------------------


async def test_a_link_that_is_lost_before_the_first_byte_sends_the_request_elsewhere(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async with UsepodAgent(coordinator.connect_url) as agent:
        await offered(coordinator)
        asking = ask(http)
        await agent.next_job()
        async with UsepodAgent(coordinator.connect_url) as other:
            await offered(coordinator, 2)
            agent.cut()
            job_id = await other.next_job()
            await other.answer(job_id, DONE)
            assert await asking == (200, DONE)
    assert coordinator.detached_sessions() == []


async def test_a_link_that_is_lost_later_ends_the_response(
    coordinator: Coordinator, agent: UsepodAgent, http: aiohttp.ClientSession
) -> None:
    posting = asyncio.create_task(http.post(CHAT, json=REQUEST))
    await agent.send_data(await agent.next_job(), EVENT)
    response = await posting
    assert await response.content.readexactly(len(EVENT)) == EVENT
    agent.cut()
    rest = await response.read()

    assert error_of(rest.removeprefix(b"data: "))[0] == "provider_lost"
    assert coordinator.detached_sessions() == []


async def test_a_stopping_coordinator_lets_jobs_finish() -> None:
    async with (
        aiohttp.ClientSession() as http,
        Coordinator(replace(SETTINGS, drain_s=30)) as coordinator,
        UsepodAgent(coordinator.connect_url) as agent,
    ):
        await offered(coordinator)
        asking = ask(http, coordinator.http_url + CHAT)
        job_id = await agent.next_job()
        stopping = asyncio.create_task(coordinator.stop())
        await agent.answer(job_id, DONE)
        assert await asking == (200, DONE)
        await stopping
        await agent.closed.wait()

    assert {one["type"] for one in agent.messages} == {"auth_challenge", "auth_ok", "job"}
