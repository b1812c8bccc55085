from collections.abc import AsyncIterator

import pytest

from provider_agent.adapters.base import (
    BackendError,
    BadStatus,
    ErrorInStream,
    InvalidResponse,
    ModelServerLoad,
    ModelState,
    Operation,
    ServerLoad,
    WireFormat,
)
from provider_agent.protocol.errors import ErrorCode
from tests.kit.fakes import FakeLlamaCpp, FakeVllm, json_response
from tests.kit.fakes.vllm import CONTEXT_WINDOW, LORA_ADAPTER, MODEL
from tests.kit.sink import CollectingSink
from tests.unit.adapters.conftest import Connect, a_job


@pytest.fixture
async def server() -> AsyncIterator[FakeVllm]:
    async with FakeVllm(api_key="sk-vllm-012345") as running:
        yield running


async def test_lora_adapter_has_the_window_of_its_parent(
    server: FakeVllm, connect: Connect
) -> None:
    models = await connect(server).list_models()

    assert {model.model_id: model.context_window for model in models} == {
        MODEL: CONTEXT_WINDOW,
        LORA_ADAPTER: CONTEXT_WINDOW,
    }


async def test_old_version_does_not_support_messages(server: FakeVllm, connect: Connect) -> None:
    old = {Operation.CHAT, Operation.COMPLETIONS}
    server.routes = set(old)

    models = await connect(server).list_models()

    assert {model.operations for model in models} == {frozenset(old)}


@pytest.mark.parametrize("has_route", [True, False])
async def test_pooling_model_is_offered_only_for_embeddings(
    server: FakeVllm, connect: Connect, has_route: bool
) -> None:
    """A server may have routes that its pooling model does not support; it rejects requests there.

    If the server has no embeddings route, the model is withheld.
    """
    server.pooling = True
    server.routes = set(Operation) if has_route else {Operation.CHAT}

    models = await connect(server).list_models()

    expected = {Operation.EMBEDDINGS} if has_route else set()
    assert {model.operations for model in models} == {frozenset(expected)}
    assert {model.withheld == "" for model in models} == {has_route}


async def test_routes_are_probed_once_per_version_and_base_model(
    server: FakeVllm, connect: Connect
) -> None:
    backend = connect(server)

    first = await backend.list_models()
    second = await backend.list_models()

    assert first == second
    assert [len(server.probes(operation)) for operation in Operation] == [1] * len(Operation)
    server.version = "0.33.0"
    server.routes.discard(Operation.MESSAGES)
    updated = await backend.list_models()
    assert all(Operation.MESSAGES not in model.operations for model in updated)
    assert backend.version == "0.33.0"


async def test_route_that_accepts_any_model_exists(
    server: FakeVllm, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is not vLLM may answer the probes, and need no other kind in `agent.toml`."""
    monkeypatch.setattr(server, "_rejection", lambda _: None)
    server.routes = {Operation.CHAT}

    models = await connect(server).list_models()

    assert {model.operations for model in models} == {frozenset({Operation.CHAT})}


async def test_route_that_knows_models_exists_whatever_its_words(
    server: FakeVllm, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = json_response({"error": "Model provider-agent-probe not found"}, 404)
    monkeypatch.setattr(server, "_rejection", lambda _: unknown)
    server.routes = {Operation.CHAT}

    models = await connect(server).list_models()

    assert {model.operations for model in models} == {frozenset({Operation.CHAT})}


async def test_llamacpp_server_is_refused_before_any_probe(connect: Connect) -> None:
    # llama.cpp accepts any model name, so it would run a probe of vLLM's routes as a job.
    async with FakeLlamaCpp() as server:
        backend = connect(server, kind="vllm")

        health = await backend.health()

        assert not health.reachable
        assert health.wrong_server
        assert health.last_error == 'this is a llama.cpp server; set kind = "llamacpp"'
        assert {request.method for request in server.requests} == {"GET"}


async def test_load_covers_all_engines(server: FakeVllm, connect: Connect) -> None:
    assert await connect(server).load() == ServerLoad(running=5, waiting=1, cache_used=0.375)


@pytest.mark.parametrize(
    ("metrics", "load"),
    [
        ("vllm:gpu_cache_usage_perc 0.25\n", ServerLoad(cache_used=0.25)),
        ("vllm:num_requests_running NaN\n", ServerLoad()),
        ("", ServerLoad()),
        (None, None),
    ],
)
async def test_load_has_only_the_values_that_are_reported(
    server: FakeVllm, connect: Connect, metrics: str | None, load: ServerLoad | None
) -> None:
    server.metrics = metrics

    assert await connect(server).load() == load


async def test_all_names_of_the_served_model_share_its_speed(
    server: FakeVllm, connect: Connect
) -> None:
    # Recorded from vLLM 0.32.0; the numbers were changed.
    server.metrics = (
        'vllm:request_prefill_kv_computed_tokens_sum{engine="0",model_name="acme"} 630.0\n'
        'vllm:request_prefill_time_seconds_sum{engine="0",model_name="acme"} 0.5\n'
        'vllm:request_generation_tokens_sum{engine="0",model_name="acme"} 2000.0\n'
        'vllm:request_generation_tokens_sum{engine="1",model_name="acme"} 2000.0\n'
        'vllm:request_decode_time_seconds_sum{engine="0",model_name="acme"} 15\n'
        'vllm:request_decode_time_seconds_sum{engine="1",model_name="acme"} 5\n'
    )
    backend = connect(server, aliases={"offered": MODEL})
    await backend.list_models()

    load = await backend.load()

    speed = ModelServerLoad(
        ModelState.LOADED, prefill_tokens_per_second=1260.0, decode_tokens_per_second=200.0
    )
    assert load == ServerLoad(models={LORA_ADAPTER: speed, "offered": speed})


async def test_malformed_metrics_are_an_error(server: FakeVllm, connect: Connect) -> None:
    server.metrics = "vllm:num_requests_running many\n"

    with pytest.raises(InvalidResponse):
        await connect(server).load()


async def test_failed_engine_is_unhealthy_with_advice(server: FakeVllm, connect: Connect) -> None:
    server.engine_failed = True

    health = await connect(server).health()

    assert not health.reachable
    assert health.last_error is not None
    assert "restart" in health.last_error
    assert not health.loading


async def test_wrong_key_fails_the_health_check(server: FakeVllm, connect: Connect) -> None:
    backend = connect(server, api_key="sk-wrong-012345")

    assert not (await backend.health()).reachable
    with pytest.raises(BadStatus) as caught:
        await backend.list_models()
    assert caught.value.body == b'{"error":"Unauthorized"}'


async def test_full_queue_reported_after_status_200_is_an_overload(
    server: FakeVllm, connect: Connect
) -> None:
    server.script_jobs(FakeVllm.admission_refused())

    with pytest.raises(ErrorInStream) as caught:
        await connect(server).execute(a_job(MODEL), CollectingSink())

    assert caught.value.code is ErrorCode.BACKEND_OVERLOADED


async def test_engine_failure_during_a_message_stream_is_an_error(
    server: FakeVllm, connect: Connect
) -> None:
    server.script_jobs(FakeVllm.engine_failed_in_messages())
    sink = CollectingSink()

    with pytest.raises(ErrorInStream) as caught:
        await connect(server).execute(a_job(MODEL, WireFormat.ANTHROPIC), sink)

    assert caught.value.code is ErrorCode.BACKEND_ERROR
    assert b"internal_error" in caught.value.body
    assert sink.data == server.jobs[0].sent


async def test_inconclusive_probe_is_not_cached(
    server: FakeVllm, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = connect(server)
    with monkeypatch.context() as broken:
        broken.setattr(server, "_rejection", lambda _: json_response({}, 500))
        with pytest.raises(BackendError):
            await backend.list_models()

    assert {model.formats for model in await backend.list_models()} == {frozenset(WireFormat)}
