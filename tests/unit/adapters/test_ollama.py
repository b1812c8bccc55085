from collections.abc import AsyncIterator

import pytest

from adapters import ollama
from adapters.base import InvalidResponse, Operation, WireFormat
from tests.kit.fakes import FakeOllama, Fault
from tests.kit.fakes.frames import INPUT_TOKENS, OUTPUT_TOKENS
from tests.kit.fakes.ollama import MODEL, PINNED, PINNED_WINDOW, UNKNOWN, WINDOW
from tests.kit.sink import CollectingSink
from tests.unit.adapters.conftest import Connect, a_job


@pytest.fixture
async def server() -> AsyncIterator[FakeOllama]:
    async with FakeOllama() as running:
        yield running


async def test_the_window_is_the_allocated_one_or_the_models_own_or_unknown(
    server: FakeOllama, connect: Connect
) -> None:
    models = await connect(server).list_models()

    assert {model.model_id: model.context_window for model in models} == {
        MODEL: WINDOW,
        PINNED: PINNED_WINDOW,
        UNKNOWN: None,
    }


async def test_a_model_that_is_not_loaded_has_no_known_window(
    server: FakeOllama, connect: Connect
) -> None:
    server.loaded = False

    windows = {m.model_id: m.context_window for m in await connect(server).list_models()}

    assert windows[MODEL] is None


@pytest.mark.parametrize("old", [False, True])
async def test_embedding_models_and_cloud_stubs_are_not_offered(
    server: FakeOllama, connect: Connect, old: bool
) -> None:
    server.old = old

    models = await connect(server).list_models()

    assert [model.model_id for model in models] == [UNKNOWN, PINNED, MODEL]
    shown = {asked.json["model"] for asked in server.asked("/api/show")}
    assert not any("cloud" in str(name) or "huge" in str(name) for name in shown)


async def test_a_model_is_asked_about_once_per_digest(server: FakeOllama, connect: Connect) -> None:
    backend = connect(server)

    for _ in range(3):
        await backend.list_models()

    names = [asked.json["model"] for asked in server.asked("/api/show")]
    assert len(names) == len(set(names)) > 0


async def test_questions_about_models_are_bounded_and_go_on_the_next_time(
    server: FakeOllama, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ollama, "MAX_SHOWN", 2)
    backend = connect(server)

    first = await backend.list_models()
    second = await backend.list_models()

    assert [model.model_id for model in first] == [PINNED, MODEL]
    assert [model.model_id for model in second] == [UNKNOWN, PINNED, MODEL]


async def test_an_old_version_speaks_no_messages(server: FakeOllama, connect: Connect) -> None:
    server.messages = False

    models = await connect(server).list_models()

    assert {model.operations for model in models} == {frozenset({Operation.CHAT})}


async def test_one_job_at_once_unless_told(server: FakeOllama, connect: Connect) -> None:
    assert connect(server).max_concurrent == 1
    assert connect(server, max_concurrent=4).max_concurrent == 4


async def test_a_refused_host_name_says_what_to_write(server: FakeOllama, connect: Connect) -> None:
    server.names = ["elsewhere"]

    health = await connect(server).health()

    assert not health.reachable
    assert health.last_error is not None
    assert "host name" in health.last_error
    assert "key" not in health.last_error


async def test_usage_of_a_message_is_the_truth_at_its_end(
    server: FakeOllama, connect: Connect
) -> None:
    result = await connect(server).execute(a_job(MODEL, WireFormat.ANTHROPIC), CollectingSink())

    assert (result.input_tokens, result.output_tokens) == (INPUT_TOKENS, OUTPUT_TOKENS)


@pytest.mark.parametrize("wire_format", list(WireFormat))
async def test_an_error_that_it_swallows_is_noticed(
    server: FakeOllama, connect: Connect, wire_format: WireFormat
) -> None:
    server.next_job(Fault.STOP_AFTER_FIRST_CHUNK)

    with pytest.raises(InvalidResponse):
        await connect(server).execute(a_job(MODEL, wire_format), CollectingSink())
