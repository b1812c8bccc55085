"""One suite over every backend, real and fake: what each says of its server."""

import aiohttp
import msgspec
import pytest

from provider_agent.adapters.base import BackendModel, Operation, TimeoutSettings, Unreachable
from tests.kit.adapters_under_test import (
    ADAPTERS,
    EMBEDDINGS,
    REAL,
    UNCOUNTED,
    AdapterUnderTest,
    every_backend,
    every_fake,
    every_server,
    parametrize_adapters,
)
from tests.kit.recorder import RecordingProxy
from tests.kit.sink import CollectingSink


@every_backend
async def test_is_healthy(adapter: AdapterUnderTest) -> None:
    health = await adapter.backend.health()

    assert health.last_error is None
    assert health.reachable
    assert health.latency_ms is not None
    assert health.latency_ms >= 0


@every_backend
async def test_offers_its_model_with_window_and_operations(adapter: AdapterUnderTest) -> None:
    listed = await adapter.backend.list_models()
    models = {model.model_id: model for model in listed if not model.withheld}

    model = models[adapter.expected.model_id]
    assert model.upstream_id == adapter.expected.upstream_id
    assert model.operations == adapter.expected.operations
    assert model.native is adapter.backend.native
    if adapter.expected.window is not None:
        assert model.context_window == adapter.expected.window
    assert [one.model_id for one in listed] == sorted(one.model_id for one in listed)


@every_backend
async def test_models_for_embeddings_are_offered_for_nothing_else(
    adapter: AdapterUnderTest,
) -> None:
    models = {model.model_id: model for model in await adapter.backend.list_models()}

    embedder = models.get(adapter.expected.embedder)
    if embedder is not None and adapter.expected.embedder != adapter.expected.model_id:
        assert embedder.withheld == ""
        assert embedder.operations == {EMBEDDINGS}
    with_embeddings = {one.model_id for one in models.values() if EMBEDDINGS in one.operations}
    assert with_embeddings - {"acme-bare"} == {adapter.expected.embedder} - {""}


@every_backend
async def test_tells_the_servers_version(adapter: AdapterUnderTest) -> None:
    await adapter.backend.list_models()

    if adapter.expected.version is None:
        assert adapter.backend.version
    else:
        assert adapter.backend.version == adapter.expected.version


@every_backend
async def test_tells_the_servers_load_where_the_server_does(adapter: AdapterUnderTest) -> None:
    await adapter.backend.list_models()
    load = await adapter.backend.load()

    assert (load is not None) is adapter.expected.reports_load
    if load is not None:
        assert load.running is not None
        assert load.running >= 0


@every_backend
async def test_clocks_and_limits_can_be_set(adapter: AdapterUnderTest) -> None:
    other = adapter.with_settings(timeouts=TimeoutSettings(first_byte_s=7.0), max_concurrent=3)

    await other.list_models()

    defaults = adapter.backend.timeouts
    assert other.timeouts == msgspec.structs.replace(defaults, first_byte_s=7.0)
    assert other.max_concurrent == 3


@every_fake
async def test_listing_models_generates_nothing(adapter: AdapterUnderTest) -> None:
    assert adapter.server is not None
    await adapter.backend.health()
    await adapter.backend.list_models()

    assert adapter.server.jobs == []


@parametrize_adapters(REAL)
async def test_listing_models_generates_nothing_on_a_real_server(adapter: AdapterUnderTest) -> None:
    async with RecordingProxy(adapter.backend.settings.url) as recorder:
        backend = adapter.with_settings(url=recorder.url)
        await backend.health()
        await backend.list_models()
        probes = [one for one in recorder.requests if one.operation is not None]

    assert {one.operation for one in probes} == set(Operation)
    assert all(b'"error"' in one.sent or b'"detail"' in one.sent for one in probes)
    assert not any(b'"usage"' in one.sent for one in probes)


@parametrize_adapters(REAL)
async def test_a_real_servers_window_is_what_it_says_it_is(adapter: AdapterUnderTest) -> None:
    url = f"{adapter.backend.settings.url}/v1/models"
    headers = {"Authorization": f"Bearer {adapter.backend.settings.api_key}"}
    async with aiohttp.ClientSession() as client, client.get(url, headers=headers) as response:
        (entry,) = (await response.json())["data"]

    (model,) = await adapter.backend.list_models()

    told = entry.get("max_model_len") or entry["meta"]["n_ctx"]
    assert model.context_window == told > 0


@every_fake
async def test_a_version_is_probed_once(adapter: AdapterUnderTest) -> None:
    assert adapter.server is not None
    for _ in range(3):
        await adapter.backend.list_models()

    counts = {len(adapter.server.probes(operation)) for operation in Operation}
    assert counts <= {0, 1}


@every_fake
async def test_a_route_that_is_not_there_is_not_offered(adapter: AdapterUnderTest) -> None:
    assert adapter.server is not None
    adapter.server.routes = {Operation.CHAT}

    models = await adapter.backend.list_models()

    (model,) = [one for one in models if one.model_id == adapter.expected.model_id]
    promised = {"openrouter": UNCOUNTED, "openai_compatible": {Operation.CHAT, Operation.MESSAGES}}
    assert model.operations == promised.get(adapter.backend.kind, {Operation.CHAT})


@every_fake
async def test_offers_only_what_the_operator_listed(adapter: AdapterUnderTest) -> None:
    one = adapter.with_settings(models=(adapter.expected.model_id,))
    none = adapter.with_settings(models=("no-such-*",))

    assert _offered(await one.list_models()) == [adapter.expected.model_id]
    rest = await none.list_models()
    assert _offered(rest) == []
    (model,) = [model for model in rest if model.model_id == adapter.expected.model_id]
    assert "`models`" in model.withheld


@every_fake
async def test_without_a_list_only_the_operators_own_hardware_is_offered(
    adapter: AdapterUnderTest,
) -> None:
    unlisted = adapter.with_settings(models=None)

    offered = _offered(await unlisted.list_models())

    assert bool(offered) is unlisted.native


@every_fake
async def test_an_alias_is_what_jobs_use_and_the_server_never_sees(
    adapter: AdapterUnderTest,
) -> None:
    assert adapter.server is not None
    named = adapter.with_settings(
        aliases={"my-name": adapter.expected.upstream_id}, models=("my-*",)
    )
    assert _offered(await named.list_models()) == ["my-name"]

    job = msgspec.structs.replace(adapter.job(stream=False), model_id="my-name")
    await named.execute(job, CollectingSink())

    assert adapter.server.jobs[0].json["model"] == adapter.expected.upstream_id


def _offered(models: list[BackendModel]) -> list[str]:
    return [model.model_id for model in models if not model.withheld]


@parametrize_adapters(name for name in ADAPTERS if ADAPTERS[name].checks_key)
async def test_is_unhealthy_with_a_wrong_key_and_says_what_to_do(adapter: AdapterUnderTest) -> None:
    wrong = adapter.with_settings(api_key="sk-wrong-0123456789")

    health = await wrong.health()

    assert not health.reachable
    assert health.last_error is not None
    assert "key" in health.last_error
    assert "api_key_env" in health.last_error
    assert "sk-wrong" not in health.last_error


@every_server
async def test_is_unhealthy_when_nobody_listens(
    adapter: AdapterUnderTest, unused_tcp_port: int
) -> None:
    nobody = adapter.with_settings(url=f"http://127.0.0.1:{unused_tcp_port}")

    health = await nobody.health()

    assert not health.reachable
    assert health.last_error is not None
    assert "refused" in health.last_error
    assert health.loading is nobody.native, "it may be starting"
    with pytest.raises(Unreachable):
        await nobody.list_models()
