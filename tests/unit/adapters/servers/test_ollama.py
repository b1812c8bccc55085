from collections.abc import AsyncIterator

import msgspec
import pytest

from provider_agent.adapters.base import (
    InvalidResponse,
    ModelState,
    Operation,
    PromptTooLong,
    Usage,
    WireFormat,
)
from provider_agent.adapters.servers import ollama
from provider_agent.protocol.errors import ErrorCode
from tests.kit.fakes import FakeOllama, Fault
from tests.kit.fakes.frames import INPUT_TOKENS, OUTPUT_TOKENS
from tests.kit.fakes.ollama import (
    CLOUD,
    CONTEXT_WINDOW,
    EMBEDDER,
    MODEL,
    PINNED,
    PINNED_CONTEXT_WINDOW,
    UNKNOWN,
    read_as_go,
)
from tests.kit.sink import CollectingSink
from tests.unit.adapters.conftest import Connect, a_job


@pytest.fixture
async def server() -> AsyncIterator[FakeOllama]:
    async with FakeOllama() as running:
        yield running


async def test_context_window_is_the_allocated_or_configured_one_or_unknown(
    server: FakeOllama, connect: Connect
) -> None:
    models = await connect(server).list_models()

    chat_models = [model for model in models if Operation.CHAT in model.operations]
    assert {model.model_id: model.context_window for model in chat_models} == {
        MODEL: CONTEXT_WINDOW,
        **dict.fromkeys(both_names(PINNED), PINNED_CONTEXT_WINDOW),
        **dict.fromkeys(both_names(UNKNOWN)),
    }


async def test_context_window_of_an_unloaded_model_is_unknown_if_none_is_configured(
    server: FakeOllama, connect: Connect
) -> None:
    server.loaded = False

    windows = {m.model_id: m.context_window for m in await connect(server).list_models()}

    assert windows[MODEL] is None


def both_names(listed: str) -> list[str]:
    return [listed.removesuffix(":latest"), listed]


BOTH_NAMES = [name for listed in (EMBEDDER, UNKNOWN, PINNED) for name in both_names(listed)]


@pytest.mark.parametrize("name", both_names(PINNED))
async def test_model_is_offered_with_and_without_the_tag_latest(
    server: FakeOllama, connect: Connect, name: str
) -> None:
    """The server lists only `llama3:latest`, and accepts `llama3` too (recorded)."""
    backend = connect(server)
    models = {model.model_id: model for model in await backend.list_models()}

    await backend.execute(a_job(name), CollectingSink())

    assert models[name].context_window == PINNED_CONTEXT_WINDOW
    assert server.jobs[0].json["model"] == name
    loads = await backend.load()
    assert loads is not None
    assert loads.models[name].state is ModelState.COLD


@pytest.mark.parametrize("name", both_names(PINNED))
async def test_alias_of_either_name_replaces_both(
    server: FakeOllama, connect: Connect, name: str
) -> None:
    models = await connect(server, models=("acme-pinned*",), aliases={"a": name}).list_models()

    assert [model.model_id for model in models if not model.withheld] == ["a"]


@pytest.mark.parametrize(
    "odd",
    ['"Max_Tokens":9000', '"max_to\u212aens":9000', '"Model":"other:cloud"', '"\u017ftream":false'],
)
async def test_other_spelling_does_not_change_what_ollama_reads(
    server: FakeOllama, connect: Connect, odd: str
) -> None:
    request = (
        f'{{"messages":[{{"role":"user","content":"hi"}}],"max_tokens":5,"stream":true,{odd}}}'
    )
    job = msgspec.structs.replace(a_job(MODEL), request=request.encode())

    await connect(server).execute(job, CollectingSink())

    read = read_as_go(server.jobs[0].body)
    assert (read["model"], read["max_tokens"], read["stream"]) == (MODEL, 5, True)


async def test_load_shows_which_models_are_in_memory(server: FakeOllama, connect: Connect) -> None:
    backend = connect(server, models=(MODEL, PINNED), aliases={"offered": MODEL})
    await backend.list_models()

    loads = []
    for server.loaded in (True, False):
        loads.append(await backend.load())

    states = [
        {name: load.models[name].state for name in ("offered", PINNED)}
        for load in loads
        if load is not None
    ]
    assert states == [
        {"offered": ModelState.LOADED, PINNED: ModelState.COLD},
        {"offered": ModelState.COLD, PINNED: ModelState.COLD},
    ]


@pytest.mark.parametrize("old", [False, True])
async def test_embedding_models_have_no_chat_and_cloud_models_are_withheld(
    server: FakeOllama, connect: Connect, old: bool
) -> None:
    server.old = old

    models = await connect(server).list_models()

    offered = {model.model_id: model for model in models if not model.withheld}
    assert set(offered) == {*BOTH_NAMES, MODEL}
    assert offered[EMBEDDER].operations == {Operation.EMBEDDINGS}
    assert Operation.EMBEDDINGS not in offered[MODEL].operations
    withheld = {model.model_id: model.withheld for model in models if model.withheld}
    assert sorted(withheld) == sorted(CLOUD)
    assert all("ollama.com" in reason for reason in withheld.values())
    shown = {request.json["model"] for request in server.requests_to("/api/show")}
    assert not any("cloud" in str(name) or "huge" in str(name) for name in shown)


async def test_model_details_are_requested_once_per_digest(
    server: FakeOllama, connect: Connect
) -> None:
    backend = connect(server)

    for _ in range(3):
        await backend.list_models()

    names = [request.json["model"] for request in server.requests_to("/api/show")]
    assert len(names) == len(set(names)) > 0


async def test_show_requests_per_model_list_are_bounded(
    server: FakeOllama, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ollama, "MAX_SHOW_REQUESTS", 2)
    backend = connect(server)

    first = await backend.list_models()
    second = await backend.list_models()

    assert [model.model_id for model in first if not model.withheld] == [
        *both_names(PINNED),
        MODEL,
    ]
    (waiting,) = [model for model in first if model.model_id == UNKNOWN]
    assert "asks again" in waiting.withheld
    offered = {model.model_id for model in second if not model.withheld}
    assert offered == {*BOTH_NAMES, MODEL}


async def test_operations_without_a_route_are_not_offered(
    server: FakeOllama, connect: Connect
) -> None:
    server.routes = {Operation.CHAT, Operation.COMPLETIONS}

    models = {model.model_id: model for model in await connect(server).list_models()}

    assert models[MODEL].operations == {Operation.CHAT, Operation.COMPLETIONS}
    assert models[EMBEDDER].withheld != ""


@pytest.mark.parametrize(
    ("version", "newer_operations"),
    [
        ("0.30.1", {Operation.RESPONSES, Operation.MESSAGES}),
        ("0.14.0-rc1", {Operation.RESPONSES, Operation.MESSAGES}),
        ("0.13.3", {Operation.RESPONSES}),
        ("0.13.2", set()),
        ("0.5", set()),
    ],
)
async def test_version_decides_which_operations_exist_if_get_requests_return_404(
    server: FakeOllama, connect: Connect, version: str, newer_operations: set[Operation]
) -> None:
    server.old, server.version = True, version
    backend = connect(server)

    models = {model.model_id: model for model in await backend.list_models()}

    assert models[MODEL].operations == {Operation.CHAT, Operation.COMPLETIONS} | newer_operations
    assert models[EMBEDDER].operations == {Operation.EMBEDDINGS}
    assert backend.version == version


async def test_prompt_that_would_be_truncated_is_refused(
    server: FakeOllama, connect: Connect
) -> None:
    backend = connect(server)
    await backend.list_models()
    words = "word " * (PINNED_CONTEXT_WINDOW + 1)
    request = {"messages": [{"role": "user", "content": words}]}
    job = msgspec.structs.replace(a_job(PINNED), request=msgspec.json.encode(request))
    sink = CollectingSink()

    with pytest.raises(PromptTooLong) as caught:
        await backend.execute(job, sink)

    assert caught.value.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED
    assert (caught.value.at_least, caught.value.window) == (
        PINNED_CONTEXT_WINDOW + 1,
        PINNED_CONTEXT_WINDOW,
    )
    assert "word word" not in str(caught.value)
    assert sink.status is None
    assert server.jobs == []


async def test_prompt_is_sent_if_the_window_is_unknown_or_large_enough(
    server: FakeOllama, connect: Connect
) -> None:
    backend = connect(server)
    await backend.list_models()
    words = "word " * (PINNED_CONTEXT_WINDOW + 1)
    request = {"messages": [{"role": "user", "content": words}]}

    for model in (MODEL, UNKNOWN):
        job = msgspec.structs.replace(a_job(model), request=msgspec.json.encode(request))
        await backend.execute(job, CollectingSink())

    assert len(server.jobs) == 2


async def test_max_concurrent_is_one_by_default(server: FakeOllama, connect: Connect) -> None:
    assert connect(server).max_concurrent == 1
    assert connect(server, max_concurrent=4).max_concurrent == 4


async def test_error_for_a_rejected_host_name_contains_advice(
    server: FakeOllama, connect: Connect
) -> None:
    server.names = ["elsewhere"]

    health = await connect(server).health()

    assert not health.reachable
    assert health.last_error is not None
    assert "host name" in health.last_error
    assert "key" not in health.last_error


async def test_final_usage_of_a_message_overrides_the_estimate(
    server: FakeOllama, connect: Connect
) -> None:
    sink = CollectingSink()

    await connect(server).execute(a_job(MODEL, WireFormat.ANTHROPIC), sink)

    assert sink.usage == Usage(INPUT_TOKENS, OUTPUT_TOKENS)


@pytest.mark.parametrize("wire_format", list(WireFormat))
async def test_interrupted_stream_is_an_error_with_unknown_usage(
    server: FakeOllama, connect: Connect, wire_format: WireFormat
) -> None:
    """Ollama's `message_start` only estimates the prompt tokens, so its count is not used."""
    server.script_jobs(Fault.STOP_AFTER_FIRST_CHUNK)
    sink = CollectingSink()

    with pytest.raises(InvalidResponse):
        await connect(server).execute(a_job(MODEL, wire_format), sink)

    assert sink.usage == Usage()
