from collections.abc import AsyncIterator

import pytest

from provider_agent.adapters.base import BadStatus, Operation, WireFormat
from tests.kit.fakes import FakeOpenAICompatible, json_response
from tests.kit.fakes.openai_compatible import CONTEXT_WINDOW, MODEL
from tests.unit.adapters.conftest import Connect


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenAICompatible]:
    async with FakeOpenAICompatible() as running:
        yield running


@pytest.mark.parametrize(
    "formats",
    [
        (WireFormat.OPENAI,),
        (WireFormat.ANTHROPIC,),
        (WireFormat.OPENAI, WireFormat.ANTHROPIC),
    ],
)
async def test_formats_come_from_the_settings(
    server: FakeOpenAICompatible, connect: Connect, formats: tuple[WireFormat, ...]
) -> None:
    models = await connect(server, formats=formats).list_models()

    assert {model.formats for model in models} == {frozenset(formats)}


async def test_context_window_is_unknown_if_the_list_does_not_report_it(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    models = await connect(server).list_models()

    assert {model.model_id: model.context_window for model in models} == {
        MODEL: CONTEXT_WINDOW,
        "acme-bare": None,
    }


@pytest.mark.parametrize(
    ("entry", "window"),
    [
        ({"max_model_len": 10}, 10),
        ({"context_length": 11}, 11),
        ({"meta": {"n_ctx": 12}}, 12),
        ({"meta": {"n_ctx_train": 99}}, None),
        ({"context_length": -1}, None),
        ({"context_length": 2**60}, None),
    ],
)
async def test_context_window_is_read_from_any_known_field(
    server: FakeOpenAICompatible,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    entry: dict[str, object],
    window: int | None,
) -> None:
    listed = {"data": [{"id": "m", **entry}]}
    monkeypatch.setattr(server, "respond", lambda _: json_response(listed))

    (model,) = await connect(server).list_models()

    assert model.context_window == window


async def test_invalid_model_ids_are_not_offered_and_repeated_ones_once(
    server: FakeOpenAICompatible, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = {"data": [{"id": model_id} for model_id in ("", "x" * 513, "b", "a", "b")]}
    monkeypatch.setattr(server, "respond", lambda _: json_response(listed))

    models = await connect(server).list_models()

    assert [model.model_id for model in models if not model.withheld] == ["a", "b"]


async def test_optional_operations_are_probed(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    server.routes = {Operation.CHAT, Operation.EMBEDDINGS, Operation.COUNT_TOKENS}

    openai, both = [
        (await connect(server, formats=formats).list_models())[0].operations
        for formats in ((WireFormat.OPENAI,), tuple(WireFormat))
    ]

    assert openai == {Operation.CHAT, Operation.EMBEDDINGS}
    assert both == openai | {Operation.MESSAGES, Operation.COUNT_TOKENS}
    assert server.probes(Operation.CHAT) == server.probes(Operation.MESSAGES) == []


@pytest.mark.parametrize("status", [200, 401, 404, 405, 500, 501])
async def test_route_is_not_offered_if_it_does_not_reject_an_empty_request_as_malformed(
    server: FakeOpenAICompatible,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
) -> None:
    monkeypatch.setattr(server, "_infer", lambda _: json_response({}, status))

    models = await connect(server).list_models()

    assert models[0].operations == {Operation.CHAT}


async def test_inconclusive_probe_is_repeated(
    server: FakeOpenAICompatible, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = connect(server)
    with monkeypatch.context() as busy:
        busy.setattr(server, "_infer", lambda _: json_response({}, 503))
        with pytest.raises(BadStatus):
            await backend.list_models()

    assert Operation.RESPONSES in (await backend.list_models())[0].operations
