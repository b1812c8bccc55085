"""The official OpenAI and Anthropic client libraries work with the coordinator."""

from collections.abc import AsyncIterator
from pathlib import Path

import anthropic
import openai
import pytest

from provider_agent.agent.cli.demo.llamacpp_process import LlamaCppProcess
from provider_agent.agent.config import BackendConfig
from provider_agent.coordinator.access import SecretSet
from provider_agent.coordinator.settings import CoordinatorSettings
from tests.kit.end_to_end_harness import EndToEndHarness, end_to_end_harness

API_KEY = "key-of-the-client"


@pytest.fixture
async def harness(
    llamacpp_server: LlamaCppProcess, tmp_path: Path
) -> AsyncIterator[EndToEndHarness]:
    settings = CoordinatorSettings(port=0, api_keys=SecretSet([API_KEY]))
    backend = BackendConfig(kind="llamacpp", url=llamacpp_server.url)
    async with end_to_end_harness(tmp_path, backend, settings=settings) as harness:
        yield harness


@pytest.fixture
async def openai_client(harness: EndToEndHarness) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{harness.url}/v1", api_key=API_KEY, max_retries=0, timeout=60
    ) as client:
        yield client


@pytest.fixture
async def anthropic_client(harness: EndToEndHarness) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=harness.url, api_key=API_KEY, max_retries=0, timeout=60
    ) as client:
        yield client


async def test_openai_chat_returns_text_and_usage(openai_client: openai.AsyncOpenAI) -> None:
    answer = await openai_client.chat.completions.create(
        model="tiny", max_tokens=8, messages=[{"role": "user", "content": "Hello"}]
    )

    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8


async def test_openai_stream_contains_text_and_usage(openai_client: openai.AsyncOpenAI) -> None:
    stream = await openai_client.chat.completions.create(
        model="tiny", max_tokens=8, messages=[{"role": "user", "content": "Hello"}], stream=True
    )

    text, reasons, usages = "", [], []
    async for chunk in stream:
        usages.append(chunk.usage)
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasons.append(choice.finish_reason)

    assert text.strip()
    assert reasons[-1] == "length"
    assert usages[-1] is not None
    assert usages[-1].completion_tokens == 8


async def test_anthropic_message_contains_text_and_usage(
    anthropic_client: anthropic.AsyncAnthropic,
) -> None:
    message = await anthropic_client.messages.create(
        model="tiny", max_tokens=8, messages=[{"role": "user", "content": "Hello"}]
    )

    assert message.content[0].type == "text"
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 8


async def test_anthropic_stream_contains_text_and_usage(
    anthropic_client: anthropic.AsyncAnthropic,
) -> None:
    async with anthropic_client.messages.stream(
        model="tiny", max_tokens=8, messages=[{"role": "user", "content": "Hello"}]
    ) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        message = await stream.get_final_message()

    assert text.strip()
    assert message.usage.output_tokens == 8


async def test_openai_lists_models(openai_client: openai.AsyncOpenAI) -> None:
    models = await openai_client.models.list()

    assert [model.id for model in models.data] == ["tiny"]


async def test_anthropic_lists_models(anthropic_client: anthropic.AsyncAnthropic) -> None:
    models = await anthropic_client.models.list()

    assert [model.id for model in models.data] == ["tiny"]


async def test_unknown_model_is_not_found(
    openai_client: openai.AsyncOpenAI, anthropic_client: anthropic.AsyncAnthropic
) -> None:
    with pytest.raises(openai.NotFoundError) as in_openai:
        await openai_client.chat.completions.create(
            model="no-such-model", messages=[{"role": "user", "content": "Hello"}]
        )
    with pytest.raises(anthropic.NotFoundError) as in_anthropic:
        await anthropic_client.messages.create(
            model="no-such-model", max_tokens=8, messages=[{"role": "user", "content": "Hello"}]
        )

    assert in_openai.value.code == "model_not_loaded"
    assert "no-such-model" in in_anthropic.value.message


async def test_unknown_model_is_not_found_for_a_stream(
    openai_client: openai.AsyncOpenAI, anthropic_client: anthropic.AsyncAnthropic
) -> None:
    with pytest.raises(openai.NotFoundError):
        await openai_client.chat.completions.create(
            model="no-such-model", messages=[{"role": "user", "content": "Hello"}], stream=True
        )
    with pytest.raises(anthropic.NotFoundError):
        async with anthropic_client.messages.stream(
            model="no-such-model", max_tokens=8, messages=[{"role": "user", "content": "Hello"}]
        ):
            pytest.fail("the stream was opened")


async def test_too_long_prompt_is_a_bad_request(
    openai_client: openai.AsyncOpenAI, anthropic_client: anthropic.AsyncAnthropic
) -> None:
    long = "the sea and the wind " * 1000
    with pytest.raises(openai.BadRequestError):
        await openai_client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": long}]
        )
    with pytest.raises(anthropic.BadRequestError):
        await anthropic_client.messages.create(
            model="tiny", max_tokens=8, messages=[{"role": "user", "content": long}]
        )


async def test_wrong_key_is_an_authentication_error(harness: EndToEndHarness) -> None:
    async with (
        openai.AsyncOpenAI(
            base_url=f"{harness.url}/v1", api_key="wrong", max_retries=0, timeout=60
        ) as openai_client,
        anthropic.AsyncAnthropic(
            base_url=harness.url, api_key="wrong", max_retries=0, timeout=60
        ) as anthropic_client,
    ):
        with pytest.raises(openai.AuthenticationError):
            await openai_client.models.list()
        with pytest.raises(anthropic.AuthenticationError):
            await anthropic_client.models.list()
