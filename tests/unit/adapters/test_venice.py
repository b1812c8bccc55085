from collections.abc import AsyncIterator

import pytest

from adapters.base import BadStatus, ErrorInStream, MissingApiKey, Operation
from adapters.venice import VeniceBackend
from protocol.errors import ErrorCode
from tests.kit.fakes import FakeVenice
from tests.kit.fakes.venice import MODEL, WINDOW
from tests.kit.sink import CollectingSink
from tests.unit.adapters.conftest import Connect, a_job


@pytest.fixture
async def server() -> AsyncIterator[FakeVenice]:
    async with FakeVenice(api_key="venice-key-0123456789") as running:
        yield running


async def test_offers_text_models_that_are_online_and_not_retired(
    server: FakeVenice, connect: Connect
) -> None:
    models = await connect(server).list_models()

    assert [model.model_id for model in models] == [MODEL, "acme-retiring"]
    assert {model.context_window for model in models} == {WINDOW}
    assert {model.operations for model in models} == {frozenset({Operation.CHAT})}


async def test_prices_are_per_million_tokens(server: FakeVenice, connect: Connect) -> None:
    model = (await connect(server).list_models())[0]

    assert (model.input_price_per_1m, model.output_price_per_1m) == (500_000, 2_000_000)


async def test_its_address_needs_not_be_written(server: FakeVenice, connect: Connect) -> None:
    assert connect(server, url="").settings.url == VeniceBackend.default_url


async def test_without_a_key_nothing_is_sent(server: FakeVenice, connect: Connect) -> None:
    backend = connect(server, api_key=None)

    assert not (await backend.health()).reachable
    with pytest.raises(MissingApiKey):
        await backend.list_models()
    assert server.exchanges == []


async def test_a_made_up_key_is_unhealthy_though_the_catalogue_answers_it(
    server: FakeVenice, connect: Connect
) -> None:
    backend = connect(server, api_key="made-up-0123456789")

    assert not (await backend.health()).reachable
    assert await backend.list_models() != []


async def test_an_error_in_its_own_words_in_the_stream_is_a_failure(
    server: FakeVenice, connect: Connect
) -> None:
    server.next_job(FakeVenice.failed_in_stream())

    with pytest.raises(ErrorInStream) as caught:
        await connect(server).execute(a_job(MODEL), CollectingSink())

    assert b"inference_failed" in caught.value.body


async def test_a_prompt_over_the_window_is_the_buyers_fault(
    server: FakeVenice, connect: Connect
) -> None:
    server.next_job(FakeVenice.context_exceeded())

    with pytest.raises(BadStatus) as caught:
        await connect(server).execute(a_job(MODEL), CollectingSink())

    assert caught.value.code is ErrorCode.CONTEXT_LENGTH_EXCEEDED
