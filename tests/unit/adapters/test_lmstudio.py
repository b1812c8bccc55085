from collections.abc import AsyncIterator

import pytest

from adapters.base import ErrorInStream, InvalidResponse, Operation, WireFormat
from tests.kit.fakes import Answer, FakeLmStudio
from tests.kit.fakes.lmstudio import MODEL, PARALLEL, WINDOW
from tests.kit.sink import CollectingSink
from tests.unit.adapters.conftest import Connect, a_job


@pytest.fixture
async def server() -> AsyncIterator[FakeLmStudio]:
    async with FakeLmStudio() as running:
        yield running


async def test_the_newest_list_tells_loaded_models_window_and_slots(
    server: FakeLmStudio, connect: Connect
) -> None:
    backend = connect(server)

    (model,) = await backend.list_models()

    assert (model.model_id, model.context_window) == (MODEL, WINDOW)
    assert model.formats == set(WireFormat)
    assert backend.max_concurrent == PARALLEL


async def test_the_operators_own_limit_stays(server: FakeLmStudio, connect: Connect) -> None:
    backend = connect(server, max_concurrent=2)

    await backend.list_models()

    assert backend.max_concurrent == 2


async def test_an_older_version_tells_loaded_models_and_window(
    server: FakeLmStudio, connect: Connect
) -> None:
    server.api = "v0"

    (model,) = await connect(server).list_models()

    assert (model.model_id, model.context_window) == (MODEL, WINDOW)
    assert model.operations == {Operation.CHAT}
    assert server.asked("/v1/messages") == [], "no version without the new list has it"


async def test_where_nothing_tells_the_state_everything_is_offered(
    server: FakeLmStudio, connect: Connect
) -> None:
    server.api = "openai"
    backend = connect(server)

    models = await backend.list_models()

    assert [model.model_id for model in models] == ["acme-embed", "acme/acme-70b", MODEL]
    assert {model.context_window for model in models} == {None}
    assert backend.max_concurrent == 1


async def test_a_route_that_answers_200_anyway_is_not_there(
    server: FakeLmStudio, connect: Connect
) -> None:
    server.messages = False

    (model,) = await connect(server).list_models()

    assert model.operations == {Operation.CHAT}


async def test_messages_are_probed_until_they_are_there_and_then_no_more(
    server: FakeLmStudio, connect: Connect
) -> None:
    backend = connect(server)
    server.messages = False
    await backend.list_models()
    server.messages = True

    lists = [await backend.list_models() for _ in range(3)]

    assert {model.formats for (model,) in lists} == {frozenset(WireFormat)}
    assert len(server.asked("/v1/messages")) == 2


async def test_a_server_of_another_kind_is_unhealthy(
    server: FakeLmStudio, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "answer", lambda _: Answer((b'{"error":"Unexpected endpoint"}',)))

    health = await connect(server).health()

    assert not health.reachable
    assert health.last_error is not None
    assert "expected shape" in health.last_error


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (FakeLmStudio.overflow_in_stream(), ErrorInStream),
        (FakeLmStudio.error_body(), ErrorInStream),
        (FakeLmStudio.empty_stream(), InvalidResponse),
    ],
    ids=["in-stream", "200-with-error-body", "empty"],
)
async def test_a_failure_that_answers_200_is_a_failure(
    server: FakeLmStudio, connect: Connect, answer: Answer, error: type[Exception]
) -> None:
    server.next_job(answer)
    sink = CollectingSink()

    with pytest.raises(error):
        await connect(server).execute(a_job(MODEL), sink)

    assert sink.data == server.jobs[0].sent
