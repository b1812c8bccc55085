"""How the coordinator handles a hostile agent of the Use Pod dialect."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct
from websockets.exceptions import ConnectionClosed

from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings, ExtraDialect
from provider_agent.protocol.limits import (
    HANDSHAKE_TIMEOUT_S,
    MAX_MESSAGE_TO_COORDINATOR_BYTES,
    MAX_MODELS,
    MIN_MESSAGE_TO_COORDINATOR_BYTES,
)
from tests.kit.coordinator_harness import JSON_HEADERS, wait_until
from tests.kit.end_to_end_harness import wait_for_models
from tests.kit.hostile_harness import task_names
from tests.kit.scripted_usepod_agent import UsepodAgent, encode64
from tests.kit.virtual_time import in_virtual_time, now

CHAT = "/v1/chat/completions"
BODY = b'{"model":"tiny","messages":[],"stream":true}'
DONE = b"data: [DONE]\n\n"
SETTINGS = CoordinatorSettings(
    port=0, drain_s=0, queue_s=0, dialects=frozenset({ExtraDialect.USEPOD})
)
HUGE: Final = 10**300

Action = Callable[[UsepodAgent, str], Awaitable[None]]


class Attack(Struct, frozen=True):
    """One attack on an open connection.

    Attributes:
        name: what the agent sends.
        perform: sends it, given the agent and the id of its running job.
        close_code: the coordinator's close code; None: the connection stays open, and the running
            job can finish.
    """

    name: str
    perform: Action
    close_code: int | None = None


def send(*messages: bytes | str | Mapping[str, object], times: int = 1) -> Action:
    texts = [json.dumps(one) if isinstance(one, Mapping) else one for one in messages]

    async def perform(agent: UsepodAgent, _job_id: str) -> None:
        for text in texts * times:
            await agent.send_raw(text)

    return perform


async def answer_unknown_jobs(agent: UsepodAgent, _job_id: str) -> None:
    for number in range(1000):
        job_id = str(uuid.UUID(int=number))
        await agent.send_data(job_id, b"x")
        await agent.send_done(job_id)
        await agent.send_error(job_id, "internal")


async def repeat_auth_response(agent: UsepodAgent, _job_id: str) -> None:
    await agent.send_auth_response(bytes(32))


OFFER: Final = {"input_per_1m": 1, "output_per_1m": 1, "max_concurrent": 1, "backend": "vllm"}
LIMITS: Final = {"max_concurrent_total": 8}


def capabilities(count: int, **fields: object) -> dict[str, object]:
    models = [{**OFFER, "model_id": f"model-{number}", **fields} for number in range(count)]
    return {"type": "capabilities", "models": models, "limits": LIMITS}


HEARTBEAT: Final = {
    "type": "heartbeat",
    "queue_depth": HUGE,
    "tokens_per_sec_p50": -1e308,
    "p50_latency_ms": 1e308,
    "p95_latency_ms": -5,
    "error_rate_60s": 1e9,
    "last_error_at": {"any": ["thing"]},
}

ATTACKS: Final = [
    Attack("an unknown type, 5000 times", send({"type": "config_update", "x": [1]}, times=5000)),
    Attack("types of any length", send({"type": "\x1b[2J" * 100_000}, {"type": ""})),
    Attack("broken JSON", send("{", "", "\x00", "nul", '{"type":"heartbeat"', times=200)),
    Attack("JSON that is no object", send("[]", "7", '"job_done"', "null")),
    Attack("deep nesting", send('{"type":"heartbeat","x":' + "[" * 500_000)),
    Attack("binary messages", send(b"", b"\x93\x01\x02\x03", times=200)),
    Attack("ends and chunks of unknown jobs", answer_unknown_jobs),
    Attack("messages without their fields", send({"type": "job_chunk"}, {"type": "job_done"})),
    Attack("impossible numbers in heartbeats", send(HEARTBEAT, times=1000)),
    Attack("impossible numbers in offers", send(capabilities(1, max_concurrent=-1))),
    Attack("more than 4096 models", send(capabilities(MAX_MODELS + 1))),
    Attack("the model ids of others", send(capabilities(1, model_id=""))),
    Attack("`auth_response` again", repeat_auth_response, 1002),
    Attack(
        "a message over 4 MiB",
        send({"type": "heartbeat", "x": "x" * MAX_MESSAGE_TO_COORDINATOR_BYTES}),
        1009,
    ),
    Attack("a message of the coordinator", send({"type": "job_cancel", "job_id": "x"})),
]


@pytest.fixture
async def coordinator() -> AsyncIterator[Coordinator]:
    async with Coordinator(SETTINGS) as running:
        yield running


@pytest.fixture
async def http(coordinator: Coordinator) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(coordinator.http_url, headers=JSON_HEADERS) as session:
        yield session


def ask(http: aiohttp.ClientSession) -> "asyncio.Task[tuple[int, bytes]]":
    async def post() -> tuple[int, bytes]:
        async with http.post(CHAT, data=BODY) as response:
            return response.status, await response.read()

    return asyncio.create_task(post())


async def check_service(coordinator: Coordinator, http: aiohttp.ClientSession) -> None:
    """Check that the coordinator serves a request once a correct agent is connected."""
    async with UsepodAgent(coordinator.connect_url) as agent:
        await wait_for_models(coordinator)
        asking = ask(http)
        await agent.answer(await agent.next_job(), DONE)
        assert await asking == (200, DONE)
    await wait_until(lambda: not coordinator.agents())


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_an_attack_affects_only_its_own_connection(
    coordinator: Coordinator, http: aiohttp.ClientSession, attack: Attack
) -> None:
    await check_service(coordinator, http)
    tasks = task_names()
    async with UsepodAgent(coordinator.connect_url) as agent:
        await wait_for_models(coordinator)
        asking = ask(http)
        job_id = await agent.next_job()
        with contextlib.suppress(ConnectionClosed):
            await attack.perform(agent, job_id)
        if attack.close_code is None:
            await agent.answer(job_id, DONE)
            assert await asking == (200, DONE)
        else:
            await agent.closed.wait()
            assert agent.socket.close_code == attack.close_code
            assert (await asking)[0] == 502
    await wait_until(lambda: not coordinator.agents())
    await check_service(coordinator, http)
    assert task_names() == tasks


@pytest.mark.parametrize("data", ["%%%", "AAA", "ä", "QQ==QQ==", 7, None])
async def test_data_that_is_not_base64_fails_only_its_job(
    coordinator: Coordinator, http: aiohttp.ClientSession, data: object
) -> None:
    async with UsepodAgent(coordinator.connect_url) as agent:
        await wait_for_models(coordinator)
        first, second = ask(http), ask(http)
        damaged, correct = await agent.next_job(), await agent.next_job()
        await agent.send(type="job_chunk", job_id=damaged, data=data)
        await agent.answer(damaged, DONE)
        await agent.answer(correct, DONE)
        answers = sorted([await first, await second])

    assert answers[0] == (200, DONE)
    assert answers[1][0] == 502
    assert b"invalid_response" in answers[1][1]


async def test_nothing_after_the_end_of_a_job_reaches_its_client(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async with UsepodAgent(coordinator.connect_url) as agent:
        await wait_for_models(coordinator)
        first, second = ask(http), ask(http)
        ended, correct = await agent.next_job(), await agent.next_job()
        await agent.answer(ended, DONE)
        await agent.answer(ended, DONE)
        await agent.send_data(ended, b"late")
        await agent.send_error(ended, "internal")
        (seen,) = coordinator.agents()
        assert seen.in_flight >= 1, "the other job still runs"
        await agent.answer(correct, DONE)
        assert [await first, await second] == [(200, DONE)] * 2
        await wait_until(lambda: coordinator.agents()[0].in_flight == 0)


async def test_an_agent_cannot_answer_the_job_of_another(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async with (
        UsepodAgent(coordinator.connect_url) as agent,
        UsepodAgent(coordinator.connect_url, models=("other",)) as thief,
    ):
        await wait_until(lambda: sum(bool(one.models) for one in coordinator.agents()) == 2)
        asking = ask(http)
        job_id = await agent.next_job()
        await thief.send_data(job_id, b"forged")
        await thief.send_done(job_id)
        await (await thief.socket.ping())  # the coordinator has processed them
        await agent.answer(job_id, DONE)
        assert await asking == (200, DONE)


async def test_the_text_of_an_error_does_not_reach_the_client(
    coordinator: Coordinator, http: aiohttp.ClientSession
) -> None:
    async with UsepodAgent(coordinator.connect_url) as agent:
        await wait_for_models(coordinator)
        asking = ask(http)
        await agent.send(
            type="job_error",
            job_id=await agent.next_job(),
            error_code="internal",
            message="\x1b[2J secret " * 100_000,
        )
        status, body = await asking

    assert status == 500
    assert b"secret" not in body


FIRST_MESSAGES: Final = [
    Attack("another message", send(HEARTBEAT), 1002),
    Attack("an unknown type", send({"type": "hello"}), 1002),
    Attack("broken JSON", send("{"), 1002),
    Attack("a binary message", send(b"\x90"), 1002),
    Attack("a short key", send({"type": "auth_response", "pubkey": "AAAA"}), 1002),
    Attack(
        "a wrong signature",
        send(
            {
                "type": "auth_response",
                # Not zeros: with that key, a signature of zeros is valid for one nonce in four.
                "pubkey": encode64(Ed25519PrivateKey.generate().public_key().public_bytes_raw()),
                "signature": encode64(bytes(64)),
            }
        ),
        1008,
    ),
    Attack(
        "a message over 1 MiB",
        send({"type": "x", "x": "x" * MIN_MESSAGE_TO_COORDINATOR_BYTES}),
        1009,
    ),
]


@pytest.mark.parametrize("attack", FIRST_MESSAGES, ids=lambda attack: attack.name)
async def test_a_connection_without_a_handshake_is_closed(
    coordinator: Coordinator, http: aiohttp.ClientSession, attack: Attack
) -> None:
    tasks = task_names()
    async with UsepodAgent(coordinator.connect_url, authenticates=False) as agent:
        await agent.next("auth_challenge")
        with contextlib.suppress(ConnectionClosed):
            await attack.perform(agent, "")
        await agent.closed.wait()
        assert agent.socket.close_code == attack.close_code
    await wait_until(lambda: task_names() == tasks)
    await check_service(coordinator, http)


@in_virtual_time
async def test_an_agent_that_never_authenticates_is_disconnected() -> None:
    async with (
        Coordinator(SETTINGS, clock=now) as coordinator,
        UsepodAgent(coordinator.connect_url, authenticates=False) as agent,
    ):
        started_at = now()
        await agent.closed.wait()
        assert HANDSHAKE_TIMEOUT_S <= now() - started_at <= HANDSHAKE_TIMEOUT_S + 5
        assert agent.socket.close_code == 1008
