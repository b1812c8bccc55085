import pytest

from provider_agent.adapters.base import BackendModel, Operation
from provider_agent.agent.backends.capabilities import agent_limits, metadata, model_offers
from provider_agent.agent.backends.offer_groups import ServedModel
from provider_agent.agent.backends.pricing import NO_PRICES, price_for
from provider_agent.agent.config import LimitsConfig, OperatorConfig, PricingConfig
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.frames import AgentLimits, Capabilities, ModelOffer
from provider_agent.protocol.limits import MAX_MODELS, MIN_MESSAGE_TO_COORDINATOR_BYTES
from tests.kit.agent_config import agent_config
from tests.kit.scripted_backend import ScriptedBackend, model

CHAT = frozenset({Operation.CHAT})
MESSAGES = frozenset({Operation.MESSAGES})
CONFIG = agent_config("ws://127.0.0.1:1")


def serve(
    backend_id: str,
    *models: BackendModel,
    max_concurrent: int = 2,
    markup: float | None = None,
    pricing: PricingConfig = NO_PRICES,
) -> list[ServedModel]:
    backend = ScriptedBackend(backend_id, *models, max_concurrent=max_concurrent)
    return [ServedModel(backend, one, price_for(one, pricing, markup)) for one in models]


def offers(*served: list[ServedModel]) -> list[ModelOffer]:
    return model_offers([entry for models in served for entry in models])


async def test_an_offer_has_the_properties_of_its_model_and_backend() -> None:
    (offer,) = offers(serve("a", model("m", context_window=8192), max_concurrent=3))
    assert offer == ModelOffer(
        model_id="m",
        formats=["anthropic", "openai"],
        operations=["chat", "messages"],
        context_window=8192,
        native=True,
        backend_kind="scripted",
        max_concurrent=3,
    )


async def test_a_model_on_several_backends_is_one_combined_offer() -> None:
    (offer,) = offers(
        serve("a", model("m", operations=CHAT, context_window=8192), max_concurrent=2),
        serve("b", model("m", operations=MESSAGES, context_window=4096), max_concurrent=5),
    )
    assert offer.operations == ["chat", "messages"]
    assert offer.formats == ["anthropic", "openai"]
    assert offer.context_window == 4096
    assert offer.max_concurrent == 7


@pytest.mark.parametrize(
    ("windows", "expected"), [((None, 4096), 4096), ((8192, None), 8192), ((None, None), None)]
)
async def test_an_unknown_context_window_is_ignored(
    windows: tuple[int | None, int | None], expected: int | None
) -> None:
    (offer,) = offers(*(serve("x", model("m", context_window=one)) for one in windows))
    assert offer.context_window == expected


@pytest.mark.parametrize("invalid", [-1, 2**53, 10**30])
async def test_invalid_numbers_are_not_offered(invalid: int) -> None:
    # A third party's adapter may return such a number. If it were offered, `Capabilities` would be
    # an invalid frame, which would end every link on which the agent sends it.
    found = offers(
        serve("a", model("m", context_window=invalid, prices=(invalid, 5))),
        serve("b", model("m", context_window=4096)),
        serve("c", model("n", context_window=invalid, prices=(2**53, 2**53)), markup=0.5),
    )
    assert [one.context_window for one in found] == [4096, None]
    assert {one.input_price_per_1m for one in found} == {None}
    frame = Capabilities(1, found, agent_limits(CONFIG), {})
    encoded = VERSION_1.encode([frame])
    assert VERSION_1.decode_from_agent(encoded, MIN_MESSAGE_TO_COORDINATOR_BYTES).frames == [frame]


async def test_models_come_in_the_order_of_the_backends() -> None:
    found = offers(serve("a", model("z"), model("m")), serve("b", model("a"), model("z")))
    assert [one.model_id for one in found] == ["z", "m", "a"]


async def test_models_above_the_protocols_limit_are_left_out() -> None:
    many = serve("a", *(model(f"m{number}") for number in range(MAX_MODELS + 1)))
    found = offers(many)
    assert len(found) == MAX_MODELS
    assert found[-1].model_id == f"m{MAX_MODELS - 1}"


def test_without_served_models_there_are_no_offers() -> None:
    assert offers() == []


@pytest.mark.parametrize(
    ("pricing", "expected"),
    [
        (PricingConfig(), (None, None)),
        (PricingConfig(default_input_per_1m=5, default_output_per_1m=6), (5, 6)),
    ],
)
async def test_an_offer_has_the_price_of_its_backends(
    pricing: PricingConfig, expected: tuple[int | None, int | None]
) -> None:
    (offer,) = offers(serve("a", model("m"), pricing=pricing))
    assert (offer.input_price_per_1m, offer.output_price_per_1m) == expected


def test_agent_limits_come_from_the_configuration() -> None:
    config = agent_config(
        "ws://127.0.0.1:1",
        limits=LimitsConfig(max_concurrent=3, max_tokens_per_minute=999),
    )
    assert agent_limits(config) == AgentLimits(3, 999)


def test_metadata_has_only_values_that_are_set() -> None:
    operator = OperatorConfig(display_name="Garage", wallet=None, contact_email="")
    config = agent_config("ws://127.0.0.1:1", operator=operator)
    assert metadata(config) == {"display_name": "Garage"}
