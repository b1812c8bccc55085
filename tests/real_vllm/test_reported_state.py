"""Version, models and health check of a real vLLM."""

import aiohttp
import msgspec
import pytest

from provider_agent.adapters.base import BadStatus, Operation
from provider_agent.protocol.errors import ErrorCode
from tests.kit.adapters_under_test import VLLM_KEY, AdapterUnderTest, parametrize_adapters
from tests.kit.sink import CollectingSink
from tests.real_vllm.gauges import tokens_generated

pytestmark = parametrize_adapters(["real-vllm"])

needs_a_key = pytest.mark.skipif(VLLM_KEY is None, reason="the server was started without a key")


async def test_version_is_the_one_that_the_server_reports(adapter: AdapterUnderTest) -> None:
    await adapter.backend.list_models()

    url = f"{adapter.backend.settings.url}/version"
    async with aiohttp.ClientSession() as client, client.get(url) as response:
        reported = msgspec.json.decode(await response.read(), type=dict[str, str])
    assert adapter.backend.version == reported["version"] != ""


async def test_generative_model_supports_all_operations_but_embeddings(
    adapter: AdapterUnderTest,
) -> None:
    (model,) = await adapter.backend.list_models()

    assert model.operations == frozenset(Operation) - {Operation.EMBEDDINGS}
    assert model.context_window is not None


async def test_health_check_and_model_list_generate_no_tokens(adapter: AdapterUnderTest) -> None:
    before = await tokens_generated(adapter.backend.settings.url)

    await adapter.backend.health()
    await adapter.backend.list_models()

    assert await tokens_generated(adapter.backend.settings.url) == before


@needs_a_key
@pytest.mark.parametrize("key", [None, "sk-wrong-0123456789"])
async def test_missing_or_wrong_key_fails_the_health_check_with_advice(
    adapter: AdapterUnderTest, key: str | None
) -> None:
    health = await adapter.with_settings(api_key=key).health()

    assert not health.reachable
    assert health.last_error is not None
    assert "api_key_env" in health.last_error


@needs_a_key
async def test_job_with_a_wrong_key_fails_with_auth_rejected_by_backend(
    adapter: AdapterUnderTest,
) -> None:
    wrong = adapter.with_settings(api_key="sk-wrong-0123456789")

    with pytest.raises(BadStatus) as caught:
        await wrong.execute(adapter.job(), CollectingSink())

    assert caught.value.code is ErrorCode.AUTH_REJECTED_BY_BACKEND
