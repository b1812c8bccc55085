"""Why a request has no answer: the text for the client, and the log line. Virtual time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from msgspec.structs import replace

from provider_agent.protocol.frames import ModelOffer
from tests.kit.coordinator_harness import (
    NO_HEARTBEATS,
    CoordinatorHarness,
    coordinator_harness,
    wait_until,
)
from tests.kit.scripted_agent import offer
from tests.kit.virtual_time import in_virtual_time
from tests.unit.coordinator.http.chat_requests import CHAT
from tests.unit.coordinator.http.test_request_record import finished

SETTINGS = replace(NO_HEARTBEATS, drain_s=5.0, max_queued=1, max_price=1.0, resume_ms=0)

Scenario = Callable[[CoordinatorHarness], Awaitable[aiohttp.ClientResponse]]


def priced(model_id: str, usd: int, max_concurrent: int = 1) -> ModelOffer:
    price = usd * 1_000_000
    found = offer(model_id, operations=["chat"], max_concurrent=max_concurrent)
    return replace(found, input_price_per_1m=price, output_price_per_1m=price)


async def post(
    harness: CoordinatorHarness, model_id: str = "tiny", path: str = CHAT
) -> aiohttp.ClientResponse:
    return await harness.http.post(path, json={"model": model_id})


async def fill(harness: CoordinatorHarness) -> asyncio.Task[aiohttp.ClientResponse]:
    """Use the agent's only slot."""
    asking = harness.ask()
    await harness.agent.next_job()
    return asking


async def full(harness: CoordinatorHarness) -> aiohttp.ClientResponse:
    await fill(harness)
    return await post(harness)


async def full_queue(harness: CoordinatorHarness) -> aiohttp.ClientResponse:
    await fill(harness)
    waiting = harness.ask()
    await wait_until(lambda: harness.coordinator.queued == 1)
    response = await post(harness)
    waiting.cancel()
    await wait_until(lambda: harness.coordinator.queued == 0)
    return response


async def agent_gone(harness: CoordinatorHarness) -> aiohttp.ClientResponse:
    await harness.agent.socket.close()
    await wait_until(lambda: not harness.coordinator.agents())
    return await post(harness)


async def server_down(harness: CoordinatorHarness) -> aiohttp.ClientResponse:
    asking = harness.ask()
    await (await harness.agent.next_job()).answer(b"{}")
    await (await asking).read()
    await harness.agent.advertise(priced("other", 1))
    return await post(harness)


async def agent_draining(harness: CoordinatorHarness) -> aiohttp.ClientResponse:
    await harness.agent.start_draining()
    return await post(harness)


async def agent_lost(harness: CoordinatorHarness) -> aiohttp.ClientResponse:
    running = await fill(harness)
    harness.agent.cut()
    return await running


@pytest.mark.parametrize(
    ("scenario", "status", "text", "logged"),
    [
        (full, 503, "busy for too long", ("out_of_capacity", "queue_timeout", 30_000)),
        (full_queue, 503, "Too many requests already wait", ("out_of_capacity", "queue_full", 0)),
        (agent_gone, 503, "is connected", ("out_of_capacity", "provider_offline", 30_000)),
        (server_down, 503, "at the moment", ("out_of_capacity", "model_withdrawn", 0)),
        (agent_draining, 503, "`tiny` is stopping", ("draining", "provider_stopping", 0)),
        (agent_lost, 502, "was lost", ("provider_lost", "provider_lost", 0)),
        (
            lambda harness: post(harness, "dear"),
            404,
            "offered, but receives no requests: $2 per million tokens is above the limit of $1.",
            ("model_not_loaded", "unroutable", 0),
        ),
        (
            lambda harness: post(harness, "unknown"),
            404,
            "not offered",
            ("model_not_loaded", "not_offered", 0),
        ),
        (
            lambda harness: post(harness, path="/v1/embeddings"),
            400,
            "not for openai embeddings",
            ("format_not_supported", "wrong_operation", 0),
        ),
    ],
)
def test_each_cause_has_its_text_and_its_reason_in_the_log(
    caplog: pytest.LogCaptureFixture,
    scenario: Scenario,
    status: int,
    text: str,
    logged: tuple[str, str, int],
) -> None:
    # Regression: five causes had the text "busy or offline", a stop and a lost agent blamed the
    # inference server, and `queue_ms` was unknown for requests that gave up.
    caplog.set_level(logging.INFO)

    @in_virtual_time
    async def run() -> None:
        async with coordinator_harness(SETTINGS) as harness:
            await harness.agent.advertise(priced("tiny", 1), priced("dear", 2))
            response = await scenario(harness)
            assert response.status == status
            assert text in (await response.json())["error"]["message"]

    run()
    lines = [
        (fields["code"], fields["reason"], fields["queue_ms"])
        for fields in finished(caplog.records)
    ]
    assert logged in lines
