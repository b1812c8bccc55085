"""What every adapter reports about fake and real servers, as the `Backend` contract requires:
health, models, version and load.
"""

import aiohttp
import msgspec
import pytest

from provider_agent.adapters.base import (
    BackendModel,
    ModelState,
    Operation,
    TimeoutSettings,
    Unreachable,
)
from tests.kit.adapters_under_test import (
    ADAPTERS,
    EMBEDDINGS,
    REAL,
    WITHOUT_COUNT_TOKENS,
    AdapterUnderTest,
    every_backend,
    every_fake,
    every_server,
    parametrize_adapters,
)
from tests.kit.recording_proxy import RecordingProxy
from tests.kit.sink import CollectingSink


@every_backend
async def test_running_server_is_healthy(adapter: AdapterUnderTest) -> None:
    health = await adapter.backend.health()

    assert health.last_error is None
    assert health.reachable
    assert health.latency_ms is not None
    assert health.latency_ms >= 0


@every_backend
async def test_model_is_listed_with_context_window_and_operations(
    adapter: AdapterUnderTest,
) -> None:
    listed = await adapter.backend.list_models()
    models = {model.model_id: model for model in listed if not model.withheld}

    model = models[adapter.expected.model_id]
    assert model.upstream_id == adapter.expected.upstream_id
    assert model.operations == adapter.expected.operations
    assert model.native is adapter.backend.native
    if adapter.expected.window is not None:
        assert model.context_window == adapter.expected.window
    assert [model.model_id for model in listed] == sorted(model.model_id for model in listed)


@every_backend
async def test_embedding_models_support_only_embeddings(
    adapter: AdapterUnderTest,
) -> None:
    models = {model.model_id: model for model in await adapter.backend.list_models()}

    embedder = models.get(adapter.expected.embedder)
    if embedder is not None and adapter.expected.embedder != adapter.expected.model_id:
        assert embedder.withheld == ""
        assert embedder.operations == {EMBEDDINGS}
    # "acme-bare" has no reported type: its backend offers it for every operation of the server.
    # Ollama's models have a second name, without the tag.
    with_embeddings = {
        model.model_id
        for model in models.values()
        if EMBEDDINGS in model.operations and f"{model.model_id}:latest" not in models
    }
    assert with_embeddings - {"acme-bare"} == {adapter.expected.embedder} - {""}


@every_backend
async def test_backend_reports_the_server_version(adapter: AdapterUnderTest) -> None:
    await adapter.backend.list_models()

    if adapter.expected.version is None:
        assert adapter.backend.version
    else:
        assert adapter.backend.version == adapter.expected.version


@every_backend
async def test_backend_reports_the_load_if_the_server_does(adapter: AdapterUnderTest) -> None:
    await adapter.backend.list_models()
    load = await adapter.backend.load()

    running = load.running if load is not None else None
    assert (running is not None) is adapter.expected.reports_load
    assert running is None or running >= 0
    for model in load.models.values() if load is not None else ():
        assert model.state is ModelState.LOADED or not model.running


@every_backend
async def test_timeouts_and_concurrency_limit_can_be_configured(adapter: AdapterUnderTest) -> None:
    backend = adapter.with_settings(timeouts=TimeoutSettings(first_byte_s=7.0), max_concurrent=3)

    await backend.list_models()

    defaults = adapter.backend.timeouts
    assert backend.timeouts == msgspec.structs.replace(defaults, first_byte_s=7.0)
    assert backend.max_concurrent == 3


@every_fake
async def test_listing_models_runs_no_job(adapter: AdapterUnderTest) -> None:
    assert adapter.server is not None
    await adapter.backend.health()
    await adapter.backend.list_models()

    assert adapter.server.jobs == []


@parametrize_adapters(REAL)
async def test_listing_models_of_a_real_server_generates_no_tokens(
    adapter: AdapterUnderTest,
) -> None:
    async with RecordingProxy(adapter.backend.settings.url) as proxy:
        backend = adapter.with_settings(url=proxy.url)
        await backend.health()
        await backend.list_models()
        probes = [request for request in proxy.requests if request.operation is not None]

    assert {probe.operation for probe in probes} == set(Operation)
    assert all(b'"error"' in probe.sent or b'"detail"' in probe.sent for probe in probes)
    assert not any(b'"usage"' in probe.sent for probe in probes)


@parametrize_adapters(REAL)
async def test_context_window_of_a_real_server_is_the_reported_one(
    adapter: AdapterUnderTest,
) -> None:
    url = f"{adapter.backend.settings.url}/v1/models"
    headers = {"Authorization": f"Bearer {adapter.backend.settings.api_key}"}
    async with aiohttp.ClientSession() as client, client.get(url, headers=headers) as response:
        (entry,) = (await response.json())["data"]

    (model,) = await adapter.backend.list_models()

    reported = entry.get("max_model_len") or entry["meta"]["n_ctx"]
    assert model.context_window == reported > 0


@every_fake
async def test_repeated_listing_probes_each_operation_at_most_once(
    adapter: AdapterUnderTest,
) -> None:
    assert adapter.server is not None
    for _ in range(3):
        await adapter.backend.list_models()

    counts = {len(adapter.server.probes(operation)) for operation in Operation}
    assert counts <= {0, 1}


@every_fake
async def test_operation_with_a_missing_route_is_not_offered_if_it_is_probed(
    adapter: AdapterUnderTest,
) -> None:
    assert adapter.server is not None
    adapter.server.routes = {Operation.CHAT}

    models = await adapter.backend.list_models()

    (model,) = [model for model in models if model.model_id == adapter.expected.model_id]
    unprobed = {
        "openrouter": WITHOUT_COUNT_TOKENS,
        "openai_compatible": {Operation.CHAT, Operation.MESSAGES},
        "openai_passthrough": {Operation.CHAT, Operation.MESSAGES},
    }
    assert model.operations == unprobed.get(adapter.backend.kind, {Operation.CHAT})


@every_fake
async def test_only_models_that_match_the_models_setting_are_offered(
    adapter: AdapterUnderTest,
) -> None:
    listed = adapter.with_settings(models=(adapter.expected.model_id,))
    unlisted = adapter.with_settings(models=("no-such-*",))

    assert _offered(await listed.list_models()) == [adapter.expected.model_id]
    models = await unlisted.list_models()
    assert _offered(models) == []
    (model,) = [model for model in models if model.model_id == adapter.expected.model_id]
    assert "`models`" in model.withheld


@every_fake
async def test_without_the_models_setting_only_native_backends_offer_models(
    adapter: AdapterUnderTest,
) -> None:
    unlisted = adapter.with_settings(models=None)

    offered = _offered(await unlisted.list_models())

    assert bool(offered) is unlisted.native


@every_fake
async def test_jobs_use_the_alias_and_the_server_receives_its_own_model_id(
    adapter: AdapterUnderTest,
) -> None:
    assert adapter.server is not None
    aliased = adapter.with_settings(
        aliases={"my-name": adapter.expected.upstream_id}, models=("my-*",)
    )
    assert _offered(await aliased.list_models()) == ["my-name"]

    job = msgspec.structs.replace(adapter.job(stream=False), model_id="my-name")
    await aliased.execute(job, CollectingSink())

    assert adapter.server.jobs[0].json["model"] == adapter.expected.upstream_id


def _offered(models: list[BackendModel]) -> list[str]:
    return [model.model_id for model in models if not model.withheld]


@parametrize_adapters(name for name in ADAPTERS if ADAPTERS[name].checks_key)
async def test_backend_with_a_wrong_key_is_unhealthy_and_its_error_names_the_setting(
    adapter: AdapterUnderTest,
) -> None:
    wrong = adapter.with_settings(api_key="sk-wrong-0123456789")

    health = await wrong.health()

    assert not health.reachable
    assert health.last_error is not None
    assert "key" in health.last_error
    assert "api_key_env" in health.last_error
    assert "sk-wrong" not in health.last_error


@every_server
async def test_backend_is_unhealthy_if_the_connection_is_refused(
    adapter: AdapterUnderTest, unused_tcp_port: int
) -> None:
    unreachable = adapter.with_settings(url=f"http://127.0.0.1:{unused_tcp_port}")

    health = await unreachable.health()

    assert not health.reachable
    assert health.last_error is not None
    assert "refused" in health.last_error
    assert health.loading is unreachable.native, "a native server may be starting"
    with pytest.raises(Unreachable):
        await unreachable.list_models()
