from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from provider_agent.adapters.base import (
    Backend,
    BadStatus,
    ModelServerLoad,
    ModelState,
    Operation,
    ServerLoad,
    WireFormat,
)
from provider_agent.adapters.servers.llamacpp import offered_id
from provider_agent.protocol.errors import ErrorCode
from tests.kit.fakes import FakeLlamaCpp
from tests.kit.fakes.llamacpp import CONTEXT_WINDOW, FILE, MODEL, SLOTS
from tests.kit.sink import CollectingSink
from tests.unit.adapters.conftest import Connect, a_job


@pytest.fixture
async def server() -> AsyncIterator[FakeLlamaCpp]:
    async with FakeLlamaCpp(api_key="sk-llama-012345") as running:
        yield running


@pytest.mark.parametrize(
    ("upstream_id", "name"),
    [
        ("tiny", "tiny"),
        ("acme/acme-8b", "acme/acme-8b"),
        ("acme/acme-8b-GGUF:Q4_K_M", "acme/acme-8b-GGUF:Q4_K_M"),
        ("/models/acme-8b.Q4_K_M.gguf", "acme-8b.Q4_K_M"),
        ("models/acme-00001-of-00003.gguf", "acme"),
        (r"C:\models\acme.GGUF", "acme"),
        ("acme.gguf", "acme"),
    ],
)
def test_model_id_is_the_alias_or_the_stem_of_the_file(upstream_id: str, name: str) -> None:
    assert offered_id(upstream_id) == name


async def test_max_concurrent_is_the_number_of_slots_unless_configured(
    server: FakeLlamaCpp, connect: Connect
) -> None:
    default, limited = connect(server), connect(server, max_concurrent=2)

    await default.list_models()
    await limited.list_models()

    assert default.max_concurrent == SLOTS
    assert limited.max_concurrent == 2


async def test_context_window_is_that_of_one_slot(server: FakeLlamaCpp, connect: Connect) -> None:
    (model,) = await connect(server).list_models()

    assert (model.model_id, model.upstream_id, model.context_window) == (
        MODEL,
        FILE,
        CONTEXT_WINDOW,
    )


async def test_wrong_api_key_makes_the_server_unhealthy(
    server: FakeLlamaCpp, connect: Connect
) -> None:
    health = await connect(server, api_key="sk-wrong-012345").health()

    assert not health.reachable
    assert health.key_refused
    assert health.last_error is not None
    assert "api_key_env" in health.last_error


async def test_loading_server_is_unhealthy_and_reported_as_loading(
    server: FakeLlamaCpp, connect: Connect
) -> None:
    server.loading = True
    backend = connect(server)

    health = await backend.health()

    assert not health.reachable
    assert health.last_error is not None
    assert "loading" in health.last_error
    assert health.loading
    with pytest.raises(BadStatus):
        await backend.list_models()
    server.loading = False
    assert (await backend.health()).reachable
    assert len(await backend.list_models()) == 1


async def test_old_build_does_not_support_messages(server: FakeLlamaCpp, connect: Connect) -> None:
    old = {Operation.CHAT, Operation.COMPLETIONS}
    server.routes = old | {Operation.EMBEDDINGS}

    (model,) = await connect(server).list_models()

    assert model.operations == old


@pytest.mark.parametrize(
    ("embeddings_only", "pooling", "operations"),
    [
        (True, True, {Operation.EMBEDDINGS}),
        (False, True, set(Operation)),
        (True, False, set()),
        (False, False, set(Operation) - {Operation.EMBEDDINGS}),
    ],
)
async def test_embeddings_are_offered_if_supported(
    server: FakeLlamaCpp,
    connect: Connect,
    embeddings_only: bool,
    pooling: bool,
    operations: set[Operation],
) -> None:
    server.embeddings, server.embeddings_only, server.pooling = True, embeddings_only, pooling

    (model,) = await connect(server).list_models()

    assert model.operations == operations
    assert (model.withheld == "") is bool(operations)


async def test_repeated_list_models_probes_each_operation_once(
    server: FakeLlamaCpp, connect: Connect
) -> None:
    backend = connect(server)

    for _ in range(3):
        await backend.list_models()

    assert [len(server.probes(operation)) for operation in Operation] == [1] * len(Operation)


async def test_sleeping_model_is_offered_without_loading_it(
    server: FakeLlamaCpp, connect: Connect
) -> None:
    server.sleeping = True
    backend = connect(server)

    await backend.health()
    (asleep,) = await backend.list_models()

    assert asleep.operations == {Operation.CHAT}
    assert server.woken == []


async def test_probe_result_is_kept_while_the_model_sleeps(
    server: FakeLlamaCpp, connect: Connect
) -> None:
    backend = connect(server)
    awake = await backend.list_models()
    server.sleeping = True

    assert await backend.list_models() == awake
    assert server.woken == []


async def test_router_offers_only_loaded_models(server: FakeLlamaCpp, connect: Connect) -> None:
    server.router = {"acme-8b": "loaded", "acme-70b": "unloaded", "acme-1b": "sleeping"}
    backend = connect(server)

    assert (await backend.health()).reachable
    asleep, unloaded, model = await backend.list_models()

    assert "sleeping" in asleep.withheld
    assert "unloaded" in unloaded.withheld
    assert model.withheld == ""
    assert (model.model_id, model.context_window) == ("acme-8b", CONTEXT_WINDOW)
    assert model.formats == set(WireFormat)
    assert backend.max_concurrent == SLOTS
    assert server.woken == []
    assert all(one.query["autoload"] == "false" for one in server.requests if one.query)


async def read_load(backend: Backend) -> ServerLoad:
    load = await backend.load()
    assert load is not None
    return load


@pytest.mark.parametrize(
    ("slots", "deferred", "running", "waiting"),
    [(True, None, 2, None), (True, 7, 2, 7), (False, 7, None, 7), (False, None, None, None)],
)
async def test_load_reports_busy_slots_and_queue_length_if_available(
    server: FakeLlamaCpp,
    connect: Connect,
    slots: bool,
    deferred: int | None,
    running: int | None,
    waiting: int | None,
) -> None:
    server.slots, server.deferred = slots, deferred
    backend = connect(server)
    await backend.list_models()

    model_load = ModelServerLoad(ModelState.LOADED, running, waiting)
    expected = ServerLoad(running, waiting, models={MODEL: model_load})
    loads = [await read_load(backend) for _ in range(3)]
    assert [replace(load, progress=None) for load in loads] == [expected] * 3
    reports_progress = slots or deferred is not None
    assert len({load.progress for load in loads}) == (3 if reports_progress else 1)

    assert len(server.requests_to("/slots")) == (3 if slots else 1)
    assert len(server.requests_to("/metrics")) == (1 if deferred is None else 3)


async def test_metrics_enabled_later_are_used_after_the_next_list_models(
    server: FakeLlamaCpp, connect: Connect
) -> None:
    backend = connect(server)
    await backend.list_models()
    before = await backend.load()
    server.deferred = 4
    await backend.list_models()
    after = await backend.load()

    assert before is not None
    assert after is not None
    assert (before.waiting, after.waiting) == (None, 4)


async def test_speeds_are_ratios_of_counter_increases_since_the_last_measurement(
    server: FakeLlamaCpp, connect: Connect
) -> None:
    # The server's own rates are not used: they are reset when any program reads the metrics.
    server.deferred = 0
    backend = connect(server)
    await backend.list_models()

    async def speeds() -> tuple[float | None, float | None]:
        load = await backend.load()
        assert load is not None
        model = load.models[MODEL]
        return model.prefill_tokens_per_second, model.decode_tokens_per_second

    assert await speeds() == (None, None)
    server.prompts, server.outputs = (1000, 2.0), (300, 6.0)
    assert await speeds() == (500.0, 50.0)
    server.prompts, server.outputs = (1010, 2.5), (500, 8.0)
    assert await speeds() == (500.0, 100.0)  # ten more prompt tokens are too few to measure
    server.prompts, server.outputs = (0, 0.0), (0, 0.0)
    assert await speeds() == (None, None)  # the server restarted


async def test_load_of_a_router_is_the_sum_of_its_loaded_models(
    server: FakeLlamaCpp, connect: Connect
) -> None:
    server.router = {"acme-1b": "loaded", "acme/8b": "loaded", "acme-70b": "unloaded"}
    server.deferred = 1
    backend = connect(server)
    await backend.list_models()

    one = ModelServerLoad(ModelState.LOADED, 2, 1)
    both = {"acme-1b": one, "acme/8b": one}
    expected = ServerLoad(running=4, waiting=2, models=both)
    assert replace(await read_load(backend), progress=None) == expected
    queries = [request.query for request in server.requests_to("/slots")]
    assert [query["model"] for query in queries] == ["acme-1b", "acme/8b"]
    assert {query["autoload"] for query in queries} == {"false"}


async def test_load_of_a_sleeping_server_is_not_requested(
    server: FakeLlamaCpp, connect: Connect
) -> None:
    server.sleeping = True
    backend = connect(server)
    await backend.list_models()

    cold = {MODEL: ModelServerLoad(ModelState.COLD)}
    assert await backend.load() == ServerLoad(models=cold)
    assert server.requests_to("/slots") == []


async def test_prompt_over_the_context_window_is_a_client_fault(
    server: FakeLlamaCpp, connect: Connect
) -> None:
    server.script_jobs(FakeLlamaCpp.context_exceeded())

    with pytest.raises(BadStatus) as caught:
        await connect(server).execute(a_job(MODEL), CollectingSink())

    assert caught.value.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED
