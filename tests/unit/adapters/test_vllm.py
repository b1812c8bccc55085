from collections.abc import AsyncIterator

import pytest

from adapters.base import BackendError, BadStatus, ErrorInStream, Operation, WireFormat
from protocol.errors import ErrorCode
from tests.kit.fakes import FakeVllm, json_answer
from tests.kit.fakes.vllm import ADAPTER, MODEL, WINDOW
from tests.kit.sink import CollectingSink
from tests.unit.adapters.conftest import Connect, a_job


@pytest.fixture
async def server() -> AsyncIterator[FakeVllm]:
    async with FakeVllm(api_key="sk-vllm-012345") as running:
        yield running


async def test_an_adapter_has_the_window_of_its_parent(server: FakeVllm, connect: Connect) -> None:
    models = await connect(server).list_models()

    assert {model.model_id: model.context_window for model in models} == {
        MODEL: WINDOW,
        ADAPTER: WINDOW,
    }


async def test_an_old_version_speaks_no_messages(server: FakeVllm, connect: Connect) -> None:
    server.messages = False

    models = await connect(server).list_models()

    assert {model.operations for model in models} == {frozenset({Operation.CHAT})}


async def test_a_pooling_model_is_not_offered(server: FakeVllm, connect: Connect) -> None:
    server.pooling = True

    assert await connect(server).list_models() == []


async def test_routes_are_probed_once_per_version_and_model(
    server: FakeVllm, connect: Connect
) -> None:
    backend = connect(server)

    first = await backend.list_models()
    second = await backend.list_models()

    assert first == second
    assert [exchange.body for exchange in server.asked("/v1/messages")] == [b"{}"]
    assert [exchange.body for exchange in server.asked("/v1/chat/completions")] == [b"{}"]


async def test_a_dead_engine_is_unhealthy_and_says_what_to_do(
    server: FakeVllm, connect: Connect
) -> None:
    server.dead = True

    health = await connect(server).health()

    assert not health.reachable
    assert health.last_error is not None
    assert "restart" in health.last_error


async def test_a_wrong_key_fails_though_health_is_open(server: FakeVllm, connect: Connect) -> None:
    backend = connect(server, api_key="sk-wrong-012345")

    assert not (await backend.health()).reachable
    with pytest.raises(BadStatus) as caught:
        await backend.list_models()
    assert caught.value.body == b'{"error":"Unauthorized"}'


async def test_a_refused_admission_after_200_is_an_overload(
    server: FakeVllm, connect: Connect
) -> None:
    server.next_job(FakeVllm.admission_refused())

    with pytest.raises(ErrorInStream) as caught:
        await connect(server).execute(a_job(MODEL), CollectingSink())

    assert caught.value.code is ErrorCode.BACKEND_OVERLOADED


async def test_an_engine_that_dies_while_it_streams_a_message_is_an_error(
    server: FakeVllm, connect: Connect
) -> None:
    server.next_job(FakeVllm.engine_died_in_messages())
    sink = CollectingSink()

    with pytest.raises(ErrorInStream) as caught:
        await connect(server).execute(a_job(MODEL, WireFormat.ANTHROPIC), sink)

    assert caught.value.code is ErrorCode.BACKEND_ERROR
    assert b"internal_error" in caught.value.body
    assert sink.data == server.jobs[0].sent


async def test_a_probe_without_a_clear_answer_is_not_remembered(
    server: FakeVllm, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = connect(server)
    with monkeypatch.context() as broken:
        broken.setattr(server, "_messages", lambda _: json_answer({}, 500))
        with pytest.raises(BackendError):
            await backend.list_models()

    assert {model.formats for model in await backend.list_models()} == {frozenset(WireFormat)}
