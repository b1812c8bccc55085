from collections.abc import AsyncIterator

import pytest

from adapters.base import WireFormat
from tests.kit.fakes import FakeOpenAICompatible, json_answer
from tests.kit.fakes.openai_compatible import MODEL, WINDOW
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
async def test_the_operator_says_which_formats_it_speaks(
    server: FakeOpenAICompatible, connect: Connect, formats: tuple[WireFormat, ...]
) -> None:
    models = await connect(server, formats=formats).list_models()

    assert {model.formats for model in models} == {frozenset(formats)}


async def test_a_bare_entry_has_no_known_window(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    models = await connect(server).list_models()

    assert {model.model_id: model.context_window for model in models} == {
        MODEL: WINDOW,
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
async def test_the_window_comes_from_whichever_field_there_is(
    server: FakeOpenAICompatible,
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    entry: dict[str, object],
    window: int | None,
) -> None:
    listed = {"data": [{"id": "m", **entry}]}
    monkeypatch.setattr(server, "answer", lambda _: json_answer(listed))

    (model,) = await connect(server).list_models()

    assert model.context_window == window


async def test_ids_that_no_frame_can_carry_and_repeated_ids_are_left_out(
    server: FakeOpenAICompatible, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = {"data": [{"id": one} for one in ("", "x" * 513, "b", "a", "b")]}
    monkeypatch.setattr(server, "answer", lambda _: json_answer(listed))

    assert [model.model_id for model in await connect(server).list_models()] == ["a", "b"]
