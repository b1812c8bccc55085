from collections.abc import AsyncIterator

import msgspec
import pytest

from provider_agent.adapters.base import BadStatus, ErrorInStream, MissingApiKey, Operation
from provider_agent.adapters.servers.venice import VeniceBackend
from provider_agent.protocol.errors import ErrorCode
from tests.kit.fakes import FakeResponse, FakeVenice, RecordedRequest
from tests.kit.fakes.venice import CONTEXT_WINDOW, EMBEDDER, MODEL
from tests.kit.sink import CollectingSink
from tests.unit.adapters.conftest import Connect, a_job


@pytest.fixture
async def server() -> AsyncIterator[FakeVenice]:
    async with FakeVenice(api_key="venice-key-0123456789") as running:
        yield running


async def test_models_that_are_online_and_not_deprecated_are_offered(
    server: FakeVenice, connect: Connect
) -> None:
    models = {model.model_id: model for model in await connect(server).list_models()}

    withheld = [name for name, model in models.items() if model.withheld]
    assert withheld == ["acme-offline", "acme-retired", "acme-retiring"]
    assert models[MODEL].context_window == CONTEXT_WINDOW
    assert models[MODEL].operations == {Operation.CHAT}
    assert models[EMBEDDER].operations == {Operation.EMBEDDINGS}
    assert "offline" in models["acme-offline"].withheld
    assert "2020-01-01" in models["acme-retired"].withheld
    assert "2999-01-01" in models["acme-retiring"].withheld


async def test_venice_parameters_of_clients_are_replaced_by_the_operators_choice(
    server: FakeVenice, connect: Connect
) -> None:
    without_prompt, with_prompt = connect(server), connect(server, venice_system_prompt=True)
    plain_job = a_job(MODEL)
    fields = msgspec.json.decode(plain_job.request)
    fields["venice_parameters"] = {"include_venice_system_prompt": True, "enable_web_search": "on"}
    job_with_parameters = msgspec.structs.replace(plain_job, request=msgspec.json.encode(fields))

    await without_prompt.execute(plain_job, CollectingSink())
    await without_prompt.execute(job_with_parameters, CollectingSink())
    await with_prompt.execute(plain_job, CollectingSink())

    off = {"include_venice_system_prompt": False}
    sent = [recorded.json.get("venice_parameters") for recorded in server.jobs]
    assert sent == [off, off, None]


async def test_other_models_are_listed_if_the_query_for_embedding_models_is_refused(
    server: FakeVenice, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    respond = server.respond

    def refuse_embeddings(recorded: RecordedRequest) -> FakeResponse:
        if recorded.query.get("type") == "embedding":
            return server.error_response(400, "no such type", recorded)
        return respond(recorded)

    monkeypatch.setattr(server, "respond", refuse_embeddings)
    models = await connect(server).list_models()

    assert MODEL in [model.model_id for model in models]
    assert EMBEDDER not in [model.model_id for model in models]


@pytest.mark.parametrize(
    ("model_id", "prices"),
    [
        (MODEL, (500_000, 2_000_000)),
        ("acme-dear", (13_750_000, 41_250_000)),
        (EMBEDDER, (150_000, 0)),
        ("acme-internal", (None, None)),
    ],
)
async def test_price_is_the_highest_that_a_request_can_cost(
    server: FakeVenice, connect: Connect, model_id: str, prices: tuple[int | None, int | None]
) -> None:
    models = {model.model_id: model for model in await connect(server).list_models()}

    model = models[model_id]
    assert (model.input_price_per_1m, model.output_price_per_1m) == prices
    assert model.price_unknown == ("" if prices[0] else "its price is unknown")


async def test_default_url_is_used_if_none_is_configured(
    server: FakeVenice, connect: Connect
) -> None:
    assert connect(server, url="").settings.url == VeniceBackend.default_url


async def test_no_request_is_sent_without_a_key(server: FakeVenice, connect: Connect) -> None:
    backend = connect(server, api_key=None)

    assert not (await backend.health()).reachable
    with pytest.raises(MissingApiKey):
        await backend.list_models()
    assert server.requests == []


async def test_backend_with_an_invalid_key_is_unhealthy_although_the_catalog_is_public(
    server: FakeVenice, connect: Connect
) -> None:
    backend = connect(server, api_key="made-up-0123456789")

    assert not (await backend.health()).reachable
    assert await backend.list_models() != []


async def test_venice_error_event_in_a_stream_fails_the_job(
    server: FakeVenice, connect: Connect
) -> None:
    server.script_jobs(FakeVenice.failed_in_stream())

    with pytest.raises(ErrorInStream) as caught:
        await connect(server).execute(a_job(MODEL), CollectingSink())

    assert b"inference_failed" in caught.value.body


async def test_prompt_over_the_context_window_is_a_client_fault(
    server: FakeVenice, connect: Connect
) -> None:
    server.script_jobs(FakeVenice.context_exceeded())

    with pytest.raises(BadStatus) as caught:
        await connect(server).execute(a_job(MODEL), CollectingSink())

    assert caught.value.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED
