from collections.abc import AsyncIterator
from typing import Literal

import pytest

from provider_agent.adapters.base import (
    BackendSettings,
    ErrorInStream,
    InvalidResponse,
    ModelServerLoad,
    ModelState,
    Operation,
    ServerLoad,
    WireFormat,
)
from provider_agent.adapters.servers.lmstudio import LmStudioBackend
from provider_agent.adapters.servers.probe_cache import UNVERSIONED_TTL_S
from tests.kit.fakes import FakeLmStudio, FakeResponse, json_response
from tests.kit.fakes.lmstudio import CONTEXT_WINDOW, EMBEDDER, MODEL, PARALLEL, UNLOADED
from tests.kit.sink import CollectingSink
from tests.unit.adapters.conftest import Connect, a_job


@pytest.fixture
async def server() -> AsyncIterator[FakeLmStudio]:
    async with FakeLmStudio() as running:
        yield running


async def test_v1_api_reports_loaded_models_context_windows_and_slots(
    server: FakeLmStudio, connect: Connect
) -> None:
    backend = connect(server)

    embedder, unloaded, model = await backend.list_models()

    assert (model.model_id, model.context_window, model.withheld) == (MODEL, CONTEXT_WINDOW, "")
    assert model.formats == set(WireFormat)
    assert (unloaded.model_id, unloaded.context_window) == (UNLOADED, None)
    assert "not loaded" in unloaded.withheld
    assert embedder.model_id == EMBEDDER
    assert embedder.operations == {Operation.EMBEDDINGS}
    assert backend.max_concurrent == PARALLEL


@pytest.mark.parametrize("api", ["v1", "v0", "openai"])
async def test_load_lists_loaded_models_if_the_api_reports_them(
    server: FakeLmStudio, connect: Connect, api: Literal["v1", "v0", "openai"]
) -> None:
    server.api = api
    backend = connect(server)
    await backend.list_models()

    load = await backend.load()

    loaded = ModelServerLoad(ModelState.LOADED)
    expected = ServerLoad(models={EMBEDDER: loaded, MODEL: loaded})
    assert load == (None if api == "openai" else expected)


async def test_max_concurrent_of_the_operator_is_not_changed(
    server: FakeLmStudio, connect: Connect
) -> None:
    backend = connect(server, max_concurrent=2)

    await backend.list_models()

    assert backend.max_concurrent == 2


async def test_v0_api_reports_loaded_models_and_context_windows(
    server: FakeLmStudio, connect: Connect
) -> None:
    server.api = "v0"

    server.routes = {Operation.CHAT, Operation.COMPLETIONS, Operation.EMBEDDINGS}

    embedder, unloaded, model = await connect(server).list_models()

    assert (model.model_id, model.context_window) == (MODEL, CONTEXT_WINDOW)
    assert model.operations == {Operation.CHAT, Operation.COMPLETIONS}
    assert "not loaded" in unloaded.withheld
    assert embedder.operations == {Operation.EMBEDDINGS}


async def test_all_models_are_offered_if_the_api_does_not_report_their_state(
    server: FakeLmStudio, connect: Connect
) -> None:
    server.api = "openai"
    backend = connect(server)

    models = await backend.list_models()

    assert [model.model_id for model in models] == ["acme-embed", "acme/acme-70b", MODEL]
    assert {model.context_window for model in models} == {None}
    assert backend.max_concurrent == 1


async def test_route_that_returns_200_with_an_unknown_endpoint_error_is_not_offered(
    server: FakeLmStudio, connect: Connect
) -> None:
    server.routes = {Operation.CHAT}

    models = await connect(server).list_models()

    assert models[-1].operations == {Operation.CHAT}


async def test_routes_of_a_server_without_a_version_are_probed_again_after_an_hour(
    server: FakeLmStudio,
) -> None:
    now = 0.0
    settings = BackendSettings(kind="lmstudio", url=server.url)
    backend = LmStudioBackend(settings, clock=lambda: now)
    server.routes = {Operation.CHAT}
    await backend.list_models()
    server.routes.add(Operation.MESSAGES)

    before = (await backend.list_models())[-1]
    now = UNVERSIONED_TTL_S
    after = (await backend.list_models())[-1]
    await backend.close()

    assert before.operations == {Operation.CHAT}
    assert after.operations == {Operation.CHAT, Operation.MESSAGES}
    assert len(server.probes(Operation.MESSAGES)) == 2


async def test_model_of_another_machine_is_withheld(server: FakeLmStudio, connect: Connect) -> None:
    server.remote = True

    models = {model.model_id: model for model in await connect(server).list_models()}

    assert "LM Link" in models["acme/remote"].withheld
    assert models[MODEL].withheld == ""


async def test_default_max_concurrent_applies_without_a_loaded_model(
    server: FakeLmStudio, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = connect(server)
    await backend.list_models()
    monkeypatch.setattr(server, "respond", lambda _: json_response({"models": []}))

    assert await backend.list_models() == []
    assert backend.max_concurrent == 1


async def test_server_of_another_kind_is_unhealthy(
    server: FakeLmStudio, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        server, "respond", lambda _: FakeResponse((b'{"error":"Unexpected endpoint"}',))
    )

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
async def test_error_or_empty_stream_with_status_200_fails_before_the_response_starts(
    server: FakeLmStudio, connect: Connect, answer: FakeResponse, error: type[Exception]
) -> None:
    server.script_jobs(answer)
    sink = CollectingSink()

    with pytest.raises(error):
        await connect(server).execute(a_job(MODEL), sink)

    assert sink.status is None, "the response must not start before the error"
