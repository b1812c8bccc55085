from collections.abc import AsyncIterator

import pytest

from provider_agent.adapters.base import ErrorInStream, MissingApiKey, Operation, WireFormat
from provider_agent.adapters.servers.openrouter import OpenRouterBackend
from provider_agent.protocol.errors import ErrorCode
from tests.kit.fakes import FakeOpenRouter
from tests.kit.fakes.openrouter import CONTEXT_WINDOW, EMBEDDER, MODEL
from tests.kit.sink import CollectingSink
from tests.unit.adapters.conftest import Connect, a_job


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenRouter]:
    async with FakeOpenRouter(api_key="sk-or-v1-0123456789") as running:
        yield running


async def test_backend_has_its_kind_as_id_and_is_not_native(
    server: FakeOpenRouter, connect: Connect
) -> None:
    backend = connect(server)

    assert (backend.id, backend.native) == ("openrouter", False)
    assert all(not model.native for model in await backend.list_models())


async def test_default_url_is_used_if_none_is_configured(
    server: FakeOpenRouter, connect: Connect
) -> None:
    assert connect(server, url="").settings.url == OpenRouterBackend.default_url


async def test_account_models_for_text_and_embeddings_are_offered_unless_expired(
    server: FakeOpenRouter, connect: Connect
) -> None:
    models = {model.model_id: model for model in await connect(server).list_models()}

    withheld = [name for name, model in models.items() if model.withheld]
    assert withheld == ["acme/gone", "acme/image"]
    assert models[MODEL].formats == set(WireFormat)
    assert models[EMBEDDER].operations == {Operation.EMBEDDINGS}
    assert "2020-01-01" in models["acme/gone"].withheld
    assert "image" in models["acme/image"].withheld


async def test_no_model_is_offered_without_the_models_setting(
    server: FakeOpenRouter, connect: Connect
) -> None:
    models = await connect(server, models=None).list_models()

    (model,) = [model for model in models if model.model_id == MODEL]
    assert all(model.withheld for model in models)
    assert "list it in `models`" in model.withheld


async def test_public_catalog_is_used_without_an_account_catalog(
    server: FakeOpenRouter, connect: Connect
) -> None:
    server.user_models = False

    models = await connect(server).list_models()

    assert "acme/everywhere" in [model.model_id for model in models]


async def test_context_window_is_the_smallest_reported(
    server: FakeOpenRouter, connect: Connect
) -> None:
    models = await connect(server).list_models()

    windows = {model.model_id: model.context_window for model in models}
    assert (windows[MODEL], windows["acme/auto"]) == (CONTEXT_WINDOW, 131072)


@pytest.mark.parametrize(
    ("model_id", "prices"),
    [(MODEL, (590_000, 790_000)), ("acme/dear", (1_500_000, 900_000))],
)
async def test_price_is_the_highest_that_a_request_can_cost(
    server: FakeOpenRouter, connect: Connect, model_id: str, prices: tuple[int, int]
) -> None:
    models = {model.model_id: model for model in await connect(server).list_models()}

    model = models[model_id]
    assert (model.input_price_per_1m, model.output_price_per_1m) == prices
    assert model.price_unknown == ""


async def test_price_of_what_the_model_does_not_accept_is_ignored(
    server: FakeOpenRouter, connect: Connect
) -> None:
    models = {model.model_id: model for model in await connect(server).list_models()}

    assert models["acme/text-only"].input_price_per_1m == 590_000


@pytest.mark.parametrize(
    ("model_id", "reason"),
    [
        ("acme/auto", "its price is unknown"),
        ("acme/fee", "it costs a fee per request, besides the price per token"),
        ("acme/image-fee", "it costs a fee per image, besides the price per token"),
        ("acme/search", "it can search the web without being asked, for a fee"),
        ("acme/new-price", "it has a price of an unknown kind (input_thoughts)"),
        ("acme/odd-tiers", "its prices for long prompts or some times of day are unknown"),
    ],
)
async def test_price_is_unknown_if_a_price_per_token_might_not_cover_the_cost(
    server: FakeOpenRouter, connect: Connect, model_id: str, reason: str
) -> None:
    models = {model.model_id: model for model in await connect(server).list_models()}

    model = models[model_id]
    assert (model.input_price_per_1m, model.output_price_per_1m) == (None, None)
    assert model.price_unknown == reason


@pytest.mark.parametrize(
    ("model_id", "limit"),
    [(MODEL, {"prompt": 0.59059, "completion": 0.79079}), ("acme/auto", None)],
)
async def test_request_excludes_providers_above_the_catalogs_price(
    server: FakeOpenRouter, connect: Connect, model_id: str, limit: dict[str, float] | None
) -> None:
    # A client could force an expensive provider, for example by its output limit.
    backend = connect(server)
    await backend.list_models()
    server.script_jobs(FakeOpenRouter.failed_with_200())
    job = a_job(model_id, provider={"only": ["expensive"]})

    with pytest.raises(ErrorInStream):
        await backend.execute(job, CollectingSink())

    expected = None if limit is None else {"max_price": limit}
    assert server.requests[-1].json.get("provider") == expected


async def test_no_request_is_sent_without_a_key(server: FakeOpenRouter, connect: Connect) -> None:
    backend = connect(server, api_key=None)

    health = await backend.health()

    assert not health.reachable
    assert health.last_error is not None
    assert "api_key_env" in health.last_error
    with pytest.raises(MissingApiKey):
        await backend.list_models()
    with pytest.raises(MissingApiKey):
        await backend.execute(a_job(MODEL), CollectingSink())
    assert server.requests == []


async def test_backend_with_an_invalid_key_is_unhealthy_although_the_catalog_is_public(
    server: FakeOpenRouter, connect: Connect
) -> None:
    assert not (await connect(server, api_key="sk-or-made-up").health()).reachable


@pytest.mark.parametrize(("remaining", "reachable"), [(None, True), (0.5, True), (0, False)])
async def test_backend_whose_key_has_no_remaining_credit_is_unhealthy(
    server: FakeOpenRouter, connect: Connect, remaining: float | None, reachable: bool
) -> None:
    server.limit_remaining = remaining

    assert (await connect(server).health()).reachable is reachable


@pytest.mark.parametrize(
    ("code", "expected"),
    [(502, ErrorCode.BACKEND_ERROR), (429, ErrorCode.BACKEND_OVERLOADED)],
)
async def test_error_event_in_a_stream_fails_the_job(
    server: FakeOpenRouter, connect: Connect, code: int, expected: ErrorCode
) -> None:
    server.script_jobs(FakeOpenRouter.failed_in_stream(code))

    with pytest.raises(ErrorInStream) as caught:
        await connect(server).execute(a_job(MODEL), CollectingSink())

    assert caught.value.code is expected


async def test_error_body_with_status_200_fails_the_job(
    server: FakeOpenRouter, connect: Connect
) -> None:
    server.script_jobs(FakeOpenRouter.failed_with_200())

    with pytest.raises(ErrorInStream) as caught:
        await connect(server).execute(a_job(MODEL, stream=False), CollectingSink())

    assert caught.value.code is ErrorCode.BACKEND_OVERLOADED
