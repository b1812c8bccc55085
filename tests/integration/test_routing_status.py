"""The coordinator's routing status reaches the agent, and heartbeats reach the coordinator."""

import asyncio
from http import HTTPStatus
from pathlib import Path

import aiohttp
import pytest

from provider_agent.agent.config import BackendConfig, Price, PricingConfig
from provider_agent.agent.link.coordinator_messages import UnroutableOffer
from provider_agent.coordinator.settings import CoordinatorSettings
from tests.kit.end_to_end_harness import READY_WITHIN_S, end_to_end_harness
from tests.kit.fakes import FakeVllm
from tests.kit.fakes.vllm import LORA_ADAPTER, MODEL

CHEAP, EXPENSIVE = Price(500_000, 900_000), Price(500_000, 1_500_000)


async def test_a_model_above_the_price_limit_receives_no_jobs_and_status_says_why(
    tmp_path: Path,
) -> None:
    settings = CoordinatorSettings(port=0, max_price=1.0)
    pricing = PricingConfig(models={MODEL: CHEAP, LORA_ADAPTER: EXPENSIVE})
    async with FakeVllm() as server:
        backend = BackendConfig(kind="vllm", url=server.url)
        async with (
            end_to_end_harness(tmp_path, backend, settings=settings, pricing=pricing) as harness,
            aiohttp.ClientSession(harness.url) as http,
            asyncio.timeout(READY_WITHIN_S),
        ):
            while (routing := harness.service.status().routing) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.005)  # no event reports the status, so poll
            statuses = {}
            for model in (MODEL, LORA_ADAPTER):
                body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
                async with http.post("/v1/chat/completions", json=body) as response:
                    statuses[model] = response.status

    text = "$1.5 per million tokens is above the limit of $1."
    assert routing.unroutable == [UnroutableOffer(LORA_ADAPTER, "price", text)]
    assert statuses == {MODEL: HTTPStatus.OK, LORA_ADAPTER: HTTPStatus.NOT_FOUND}


async def test_heartbeat_reports_that_models_are_in_memory(tmp_path: Path) -> None:
    async with FakeVllm() as server:
        backend = BackendConfig(kind="vllm", url=server.url)
        async with end_to_end_harness(tmp_path, backend) as harness:
            async with asyncio.timeout(READY_WITHIN_S):
                while (heartbeat := harness.coordinator.agents()[0].heartbeat) is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)

    (load,) = heartbeat.backends
    assert {model.model_id: model.state for model in load.models} == {
        MODEL: "loaded",
        LORA_ADAPTER: "loaded",
    }
    assert load.cache_used == pytest.approx(0.375)
