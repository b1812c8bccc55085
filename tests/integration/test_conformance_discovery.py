"""One suite over every backend, real and fake: what each says of its server."""

import aiohttp
import msgspec
import pytest

from adapters.base import BackendModel, Operation, TimeoutSettings, Unreachable
from tests.kit.recorder import Recorder
from tests.kit.sink import CollectingSink
from tests.kit.subjects import (
    EMBEDDINGS,
    REAL,
    SUBJECTS,
    UNCOUNTED,
    Subject,
    every_backend,
    every_fake,
    every_server,
    over,
)


@every_backend
async def test_is_healthy(subject: Subject) -> None:
    health = await subject.backend.health()

    assert health.last_error is None
    assert health.reachable
    assert health.latency_ms is not None
    assert health.latency_ms >= 0


@every_backend
async def test_offers_its_model_with_window_and_operations(subject: Subject) -> None:
    listed = await subject.backend.list_models()
    models = {model.model_id: model for model in listed if not model.withheld}

    model = models[subject.expected.model_id]
    assert model.upstream_id == subject.expected.upstream_id
    assert model.operations == subject.expected.operations
    assert model.native is subject.backend.native
    if subject.expected.window is not None:
        assert model.context_window == subject.expected.window
    assert [one.model_id for one in listed] == sorted(one.model_id for one in listed)


@every_backend
async def test_models_for_embeddings_are_offered_for_nothing_else(subject: Subject) -> None:
    models = {model.model_id: model for model in await subject.backend.list_models()}

    embedder = models.get(subject.expected.embedder)
    if embedder is not None and subject.expected.embedder != subject.expected.model_id:
        assert embedder.withheld == ""
        assert embedder.operations == {EMBEDDINGS}
    with_embeddings = {one.model_id for one in models.values() if EMBEDDINGS in one.operations}
    assert with_embeddings - {"acme-bare"} == {subject.expected.embedder} - {""}


@every_backend
async def test_tells_the_servers_version(subject: Subject) -> None:
    await subject.backend.list_models()

    if subject.expected.version is None:
        assert subject.backend.version
    else:
        assert subject.backend.version == subject.expected.version


@every_backend
async def test_tells_the_servers_load_where_the_server_does(subject: Subject) -> None:
    await subject.backend.list_models()
    load = await subject.backend.load()

    assert (load is not None) is subject.expected.tells_load
    if load is not None:
        assert load.running is not None
        assert load.running >= 0


@every_backend
async def test_clocks_and_limits_can_be_set(subject: Subject) -> None:
    other = subject.with_settings(timeouts=TimeoutSettings(first_byte_s=7.0), max_concurrent=3)

    await other.list_models()

    defaults = subject.backend.timeouts
    assert other.timeouts == msgspec.structs.replace(defaults, first_byte_s=7.0)
    assert other.max_concurrent == 3


@every_fake
async def test_listing_models_generates_nothing(subject: Subject) -> None:
    assert subject.server is not None
    await subject.backend.health()
    await subject.backend.list_models()

    assert subject.server.jobs == []


@over(REAL)
async def test_listing_models_generates_nothing_on_a_real_server(subject: Subject) -> None:
    async with Recorder(subject.backend.settings.url) as recorder:
        backend = subject.with_settings(url=recorder.url)
        await backend.health()
        await backend.list_models()
        probes = [one for one in recorder.exchanges if one.operation is not None]

    assert {one.operation for one in probes} == set(Operation)
    assert all(b'"error"' in one.sent or b'"detail"' in one.sent for one in probes)
    assert not any(b'"usage"' in one.sent for one in probes)


@over(REAL)
async def test_a_real_servers_window_is_what_it_says_it_is(subject: Subject) -> None:
    url = f"{subject.backend.settings.url}/v1/models"
    headers = {"Authorization": f"Bearer {subject.backend.settings.api_key}"}
    async with aiohttp.ClientSession() as client, client.get(url, headers=headers) as response:
        (entry,) = (await response.json())["data"]

    (model,) = await subject.backend.list_models()

    told = entry.get("max_model_len") or entry["meta"]["n_ctx"]
    assert model.context_window == told > 0


@every_fake
async def test_a_version_is_probed_once(subject: Subject) -> None:
    assert subject.server is not None
    for _ in range(3):
        await subject.backend.list_models()

    counts = {len(subject.server.probes(operation)) for operation in Operation}
    assert counts <= {0, 1}


@every_fake
async def test_a_route_that_is_not_there_is_not_offered(subject: Subject) -> None:
    assert subject.server is not None
    subject.server.routes = {Operation.CHAT}

    models = await subject.backend.list_models()

    (model,) = [one for one in models if one.model_id == subject.expected.model_id]
    promised = {"openrouter": UNCOUNTED, "openai_compatible": {Operation.CHAT, Operation.MESSAGES}}
    assert model.operations == promised.get(subject.backend.kind, {Operation.CHAT})


@every_fake
async def test_offers_only_what_the_operator_listed(subject: Subject) -> None:
    one = subject.with_settings(models=(subject.expected.model_id,))
    none = subject.with_settings(models=("no-such-*",))

    assert _offered(await one.list_models()) == [subject.expected.model_id]
    rest = await none.list_models()
    assert _offered(rest) == []
    (model,) = [model for model in rest if model.model_id == subject.expected.model_id]
    assert "`models`" in model.withheld


@every_fake
async def test_without_a_list_only_the_operators_own_hardware_is_offered(subject: Subject) -> None:
    unlisted = subject.with_settings(models=None)

    offered = _offered(await unlisted.list_models())

    assert bool(offered) is unlisted.native


@every_fake
async def test_an_alias_is_what_jobs_use_and_the_server_never_sees(subject: Subject) -> None:
    assert subject.server is not None
    named = subject.with_settings(
        aliases={"my-name": subject.expected.upstream_id}, models=("my-*",)
    )
    assert _offered(await named.list_models()) == ["my-name"]

    job = msgspec.structs.replace(subject.job(stream=False), model_id="my-name")
    await named.execute(job, CollectingSink())

    assert subject.server.jobs[0].json["model"] == subject.expected.upstream_id


def _offered(models: list[BackendModel]) -> list[str]:
    return [model.model_id for model in models if not model.withheld]


@over(name for name in SUBJECTS if SUBJECTS[name].checks_key)
async def test_is_unhealthy_with_a_wrong_key_and_says_what_to_do(subject: Subject) -> None:
    wrong = subject.with_settings(api_key="sk-wrong-0123456789")

    health = await wrong.health()

    assert not health.reachable
    assert health.last_error is not None
    assert "key" in health.last_error
    assert "api_key_env" in health.last_error
    assert "sk-wrong" not in health.last_error


@every_server
async def test_is_unhealthy_when_nobody_listens(subject: Subject, unused_tcp_port: int) -> None:
    nobody = subject.with_settings(url=f"http://127.0.0.1:{unused_tcp_port}")

    health = await nobody.health()

    assert not health.reachable
    assert health.last_error is not None
    assert "refused" in health.last_error
    assert health.loading is nobody.native, "it may be starting"
    with pytest.raises(Unreachable):
        await nobody.list_models()
