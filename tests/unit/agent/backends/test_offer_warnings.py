from typing import Literal

import pytest
from msgspec.structs import replace

from provider_agent.adapters.base import BackendHealth, BackendModel, BackendSettings
from provider_agent.adapters.registry import create_backend
from provider_agent.agent.backends.health_check import BackendState
from provider_agent.agent.backends.offer_groups import ServedModel
from provider_agent.agent.backends.offer_warnings import (
    OfferWarning,
    OfferWarningLog,
    offer_warnings,
)
from provider_agent.agent.backends.pricing import price_for
from provider_agent.agent.config import (
    BackendConfig,
    CoordinatorConfig,
    OperatorConfig,
    Price,
    PricingConfig,
)
from tests.kit.agent_config import agent_config
from tests.kit.scripted_backend import ScriptedBackend, model

LISTED = "`provider-agent models` lists the ids"


def state_of(
    *models: BackendModel,
    withheld: tuple[BackendModel, ...] = (),
    settings: BackendSettings | None = None,
    reachable: bool = True,
) -> BackendState:
    backend = ScriptedBackend("b", *models)
    backend.settings = settings or backend.settings
    return BackendState(backend, BackendHealth(reachable), models, withheld)


def warnings_of(
    *states: BackendState,
    pricing: PricingConfig | None = None,
    wallet: str | None = None,
    skipped: int = 0,
    dialect: Literal["usepod"] | None = None,
) -> list[OfferWarning]:
    pricing = pricing or PricingConfig()
    config = agent_config(
        "",
        coordinator=CoordinatorConfig(url="ws://127.0.0.1:1", dialect=dialect),
        operator=OperatorConfig(wallet=wallet),
        backends=(BackendConfig(kind="scripted"),) * (len(states) + skipped),
        pricing=pricing,
    )
    serving = [
        ServedModel(state.backend, one, price_for(one, pricing, None))
        for state in states
        for one in state.models
    ]
    return offer_warnings(serving, states, config)


@pytest.mark.parametrize(
    ("pricing", "native"),
    [
        (PricingConfig(), True),
        (PricingConfig(models={"m": Price(1, 0)}), True),
        (PricingConfig(models={"m": Price(0, 0)}), False),
    ],
)
def test_model_without_a_price_is_reported_as_not_offered_in_usepod(
    pricing: PricingConfig, native: bool
) -> None:
    state = state_of(model("m", native=native))

    assert warnings_of(state, dialect=None, pricing=pricing) == []
    assert warnings_of(state, dialect="usepod", pricing=pricing) == [
        OfferWarning(
            "m",
            "it has no price above 0, and so it is not offered in the dialect usepod",
            "set it in [pricing.models], or set the defaults in [pricing]",
        )
    ]


@pytest.mark.parametrize(
    ("pricing", "wallet", "warned"),
    [
        (PricingConfig(), None, False),
        (PricingConfig(), "0xabc", True),
        (PricingConfig(models={"m": Price(1, 2)}), "0xabc", False),
        (PricingConfig(default_input_per_1m=1, default_output_per_1m=2), None, False),
    ],
)
def test_model_without_a_price_is_reported_if_the_operator_wants_to_be_paid(
    pricing: PricingConfig, wallet: str | None, warned: bool
) -> None:
    found = warnings_of(state_of(model("m")), pricing=pricing, wallet=wallet)

    assert [one.target for one in found] == (["m"] if warned else [])
    assert all(one.problem.startswith("it has no price; ") for one in found)


def test_price_below_what_a_passthrough_charges_is_reported() -> None:
    pricing = PricingConfig(models={"m": Price(10, 19)})

    (found,) = warnings_of(state_of(model("m", native=False, prices=(10, 20))), pricing=pricing)

    assert found == OfferWarning(
        "m", "its price is below what b charges (10 and 20)", "raise it in [pricing.models]"
    )
    assert (
        warnings_of(
            state_of(model("m", native=False, prices=(10, 20))),
            pricing=PricingConfig(models={"m": Price(10, 20)}),
        )
        == []
    )


def test_model_that_is_not_offered_because_its_price_is_unknown_is_reported() -> None:
    unpriced = replace(model("m", native=False), price_unknown="it costs a fee per request")

    (found,) = warnings_of(state_of(unpriced))

    assert found == OfferWarning(
        "m",
        "not offered by b: it costs a fee per request",
        "set its price in [pricing.models]",
    )


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("llama3.1:8", 'did you mean "llama3.1:8b"?'),
        ("Llama3.1:8b", 'did you mean "llama3.1:8b"?'),
        ("qwen", LISTED),
    ],
)
def test_price_for_an_unknown_model_is_reported_with_the_closest_id(name: str, advice: str) -> None:
    pricing = PricingConfig(
        models={name: Price(1, 2), "llama3.1:8b": Price(1, 2), "unloaded": Price(1, 2)}
    )
    state = state_of(model("llama3.1:8b"), withheld=(model("unloaded", withheld="not loaded"),))

    assert warnings_of(state, pricing=pricing) == [
        OfferWarning(f'[pricing.models] "{name}"', "it matches no model", advice)
    ]


@pytest.mark.parametrize("name", ["tiny", "/models/tiny.gguf"])
def test_price_of_a_renamed_model_is_reported_with_the_new_id(name: str) -> None:
    settings = BackendSettings(kind="llamacpp", url="http://b", aliases={"my-model": "tiny"})
    renamed = replace(model("my-model"), upstream_id="/models/tiny.gguf")
    pricing = PricingConfig(models={name: Price(1, 2), "my-model": Price(1, 2)})

    assert warnings_of(state_of(renamed, settings=settings), pricing=pricing) == [
        OfferWarning(
            f'[pricing.models] "{name}"',
            'this model is now offered as "my-model"',
            'rename the entry to "my-model"',
        )
    ]


@pytest.mark.parametrize("reason", ["unreachable", "skipped"])
def test_price_is_not_reported_while_a_backend_that_may_have_the_model_is_missing(
    reason: str,
) -> None:
    up = state_of(model("other"))
    if reason == "skipped":
        # "m" may be a model of the skipped backend; only "other", without a price, is reported.
        assert warnings_of(up, pricing=PricingConfig(models={"m": Price(1, 2)}), skipped=1) == [
            OfferWarning(
                "other",
                "it has no price; a coordinator that pays sends no jobs for it",
                "set it in [pricing.models], or set the defaults in [pricing]",
            )
        ]
    else:
        pricing = PricingConfig(models={"other": Price(1, 2), "m": Price(1, 2)})
        assert warnings_of(up, state_of(reachable=False), pricing=pricing) == []


@pytest.mark.parametrize(
    ("upstream_id", "reversed_pair"),
    [
        ("tiny", True),
        ("/models/tiny.gguf", True),
        ("acme", False),
        ("/models/acme.gguf", False),
    ],
)
def test_reversed_alias_is_reported(upstream_id: str, reversed_pair: bool) -> None:
    # In an earlier version, the server's own "tiny" counted as the model of the alias.
    settings = BackendSettings(kind="scripted", aliases={"tiny": "acme"})
    state = state_of(replace(model("tiny"), upstream_id=upstream_id), settings=settings)
    expected = OfferWarning(
        'b: alias "tiny"',
        '"acme" is no model of the backend, but "tiny" is',
        'the offered id comes first: did you mean "acme" = "tiny"?',
    )

    assert warnings_of(state) == [expected] * reversed_pair


def test_alias_and_listed_name_that_match_no_model_are_reported() -> None:
    settings = BackendSettings(
        kind="scripted",
        models=("elsewhere/x", "acme/*", "acme/8b", "acme/70b"),
        aliases={"small": "acme/8b", "large": "acme/80b"},
    )
    small = replace(model("small"), upstream_id="acme/8b")
    state = state_of(small, withheld=(model("acme/70b", withheld="not loaded"),), settings=settings)

    assert warnings_of(state) == [
        OfferWarning(
            'b: alias "large"',
            '"acme/80b" is no model of the backend, or is not listed in `models`',
            'did you mean "acme/8b"?',
        ),
        OfferWarning('b: models "elsewhere/x"', "it matches no model", LISTED),
    ]
    assert warnings_of(state_of(settings=settings, reachable=False)) == []


@pytest.mark.parametrize(
    ("kind", "url", "warned"),
    [
        ("openai_compatible", "https://api.example.com", True),
        ("openai_compatible", "http://8.8.8.8:8000", True),
        ("openai_compatible", "http://[2606:4700::1111]", True),
        ("openai_compatible", "http://127.0.0.1:4000", False),
        ("openai_compatible", "http://10.0.0.7:4000", False),
        ("openai_compatible", "http://gpu:4000", False),
        ("openai_compatible", "http://gpu.default.svc.cluster.local", False),
        ("openai_compatible", "http://gpu.home.arpa.", False),
        ("vllm", "https://gpu.example.com", False),
    ],
)
def test_remote_service_that_is_offered_as_own_hardware_is_reported(
    kind: str, url: str, warned: bool
) -> None:
    backend = create_backend(BackendSettings(kind=kind, url=url))
    state = BackendState(backend, BackendHealth(False))

    found = warnings_of(state)

    assert [one.target for one in found] == ([f"{kind}:{url}"] if warned else [])
    assert all("openai_passthrough" in one.what_to_do for one in found)


def test_each_warning_is_logged_at_most_once_until_the_settings_change(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = OfferWarningLog()
    warnings = [OfferWarning(f"m{number}", "x", "y") for number in range(22)]
    log.report(warnings[:1])
    log.report([*warnings, *warnings])
    log.report(warnings)
    # The second report has 21 new warnings: it logs 20, its maximum, and only counts the last.
    assert caplog.messages == ["offer warning"] * 21 + ["offer warnings not logged"]
    log.reset()
    log.report(warnings[:1])
    assert caplog.messages[-1] == "offer warning"
