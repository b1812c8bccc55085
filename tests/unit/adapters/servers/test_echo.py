import asyncio
import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.base import (
    BackendSettings,
    BadRequest,
    Job,
    Operation,
    Usage,
    WireFormat,
)
from provider_agent.adapters.responses.validator import validator_for
from provider_agent.adapters.servers.echo import MODEL_ID, EchoBackend
from provider_agent.protocol.formats import MAIN_OPERATION
from tests.kit.sink import CollectingSink

BOTH_FORMATS = pytest.mark.parametrize("wire_format", list(WireFormat))


def echo_job(text: object, wire_format: WireFormat = WireFormat.OPENAI, **more: object) -> Job:
    request = {"model": MODEL_ID, "messages": [{"role": "user", "content": text}], **more}
    return Job(uuid.uuid4().bytes, MODEL_ID, wire_format, msgspec.json.encode(request), 60_000)


async def run(job: Job) -> CollectingSink:
    sink = CollectingSink()
    await EchoBackend(BackendSettings(kind="echo")).execute(job, sink)
    return sink


async def test_echo_offers_one_model_in_both_formats() -> None:
    backend = EchoBackend(BackendSettings(kind="echo"))

    (model,) = await backend.list_models()

    assert model.model_id == "echo"
    assert model.operations == {Operation.CHAT, Operation.MESSAGES, Operation.COUNT_TOKENS}
    assert (backend.id, backend.native) == ("echo", True)
    assert (await backend.health()).reachable


@pytest.mark.parametrize(
    ("models", "offered"), [(None, ["mine"]), (("mine",), ["mine"]), (("another",), [])]
)
async def test_echo_applies_aliases_and_the_list_of_models(
    models: tuple[str, ...] | None, offered: list[str]
) -> None:
    # Regression: it ignored them, and `check` said that "echo" is no model of the backend.
    settings = BackendSettings(kind="echo", models=models, aliases={"mine": "echo"})

    listed = await EchoBackend(settings).list_models()

    assert [model.model_id for model in listed if not model.withheld] == offered


@BOTH_FORMATS
@pytest.mark.parametrize("stream", [True, False])
async def test_echo_repeats_the_user_message(wire_format: WireFormat, stream: bool) -> None:
    sink = await run(echo_job("alpha beta gamma", wire_format, stream=stream))

    assert b"alpha" in sink.data
    assert b"gamma" in sink.data
    assert sink.usage == Usage(3, 3)


@BOTH_FORMATS
@pytest.mark.parametrize("stream", [True, False])
async def test_response_is_valid_in_each_format(wire_format: WireFormat, stream: bool) -> None:
    sink = await run(echo_job("one two", wire_format, stream=stream, max_tokens=1))
    validator = validator_for(MAIN_OPERATION[wire_format], sink.content_type)
    validator.receive_data(bytes(sink.data))

    result = validator.result()

    assert result.failure is None
    assert (result.usage.input_tokens, result.usage.output_tokens) == (2, 1)
    assert sink.usage == Usage(2, 1)


async def test_count_tokens_returns_the_number_of_words() -> None:
    job = echo_job("one two three", WireFormat.ANTHROPIC, stream=True)

    sink = await run(msgspec.structs.replace(job, operation=Operation.COUNT_TOKENS))

    assert sink.content_type == "application/json"
    assert msgspec.json.decode(sink.data) == {"input_tokens": 3}
    assert sink.usage == Usage(3, 0)


@BOTH_FORMATS
async def test_equal_requests_get_equal_bytes(wire_format: WireFormat) -> None:
    first = await run(echo_job("again", wire_format, stream=True))
    second = await run(echo_job("again", wire_format, stream=True))

    assert first.data == second.data


@pytest.mark.parametrize("content", ["", "   ", None, []])
async def test_empty_message_gets_a_placeholder_reply(content: object) -> None:
    sink = await run(echo_job(content))

    assert b"nothing" in sink.data


async def test_parts_without_text_are_ignored() -> None:
    parts = [{"type": "text", "text": "left"}, {"type": "image_url", "image_url": {"url": "x"}}]

    sink = await run(echo_job(parts))

    assert b'"content":"left"' in sink.data


@pytest.mark.parametrize(
    "request_body",
    [b"", b"[]", b"{}", b'{"messages":7}', b'{"messages":[{"content":"x"}]}', b"[" * 100_000],
)
async def test_malformed_request_is_a_bad_request(request_body: bytes) -> None:
    job = msgspec.structs.replace(echo_job("x"), request=request_body)

    with pytest.raises(BadRequest):
        await run(job)


async def test_cancellation_stops_the_reply() -> None:
    sink = CollectingSink(pause_at=1)
    backend = EchoBackend(BackendSettings(kind="echo"))
    running = asyncio.create_task(backend.execute(echo_job("a b c", stream=True), sink))
    await sink.paused.wait()
    before = len(sink.data)

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(sink.data) == before
    assert sink.usage == Usage(3, None)


@given(st.text(), st.sampled_from(WireFormat), st.booleans())
async def test_response_to_any_text_is_valid_and_its_usage_counts_the_words(
    text: str, wire_format: WireFormat, stream: bool
) -> None:
    sink = await run(echo_job(text, wire_format, stream=stream))

    validator = validator_for(MAIN_OPERATION[wire_format], sink.content_type)
    validator.receive_data(bytes(sink.data))
    assert validator.result().failure is None
    # The placeholder for an empty message has three words.
    assert sink.usage.output_tokens == (len(text.split()) or 3)
