from typing import Any

import msgspec
import pytest

from provider_agent.protocol.frames import AgentLimits, Capabilities, Draining, ModelOffer
from tests.unit.protocol.usepod.dialects import AGENT_VERSION, DialectHarness


def offer(model_id: str = "tiny", **fields: Any) -> ModelOffer:
    defaults: dict[str, Any] = {
        "formats": ["openai"],
        "operations": ["chat"],
        "context_window": 4096,
        "native": True,
        "backend_kind": "vllm",
        "max_concurrent": 2,
        "input_price_per_1m": 500_000,
        "output_price_per_1m": 750_000,
    }
    return ModelOffer(model_id, **(defaults | fields))


def sent(*offers: ModelOffer, limits: AgentLimits | None = None) -> Any:
    frame = Capabilities(1, list(offers), limits or AgentLimits(4, 200_000), {"wallet": "secret"})
    return msgspec.json.decode(DialectHarness().send(frame))


def test_capabilities_have_the_form_that_the_marketplace_expects() -> None:
    assert sent(offer()) == {
        "type": "capabilities",
        "models": [
            {
                "model_id": "tiny",
                "input_per_1m": 500_000,
                "output_per_1m": 750_000,
                "max_concurrent": 2,
                "backend": "vllm",
                "context_window": 4096,
            }
        ],
        "limits": {"max_concurrent_total": 4, "max_tokens_per_minute": 200_000},
        "metadata": {"agent_version": AGENT_VERSION},
    }


def test_no_model_has_more_concurrent_jobs_than_the_agent() -> None:
    message = sent(offer(max_concurrent=32), offer("other", max_concurrent=3))

    assert [model["max_concurrent"] for model in message["models"]] == [4, 3]


def test_no_token_limit_is_null() -> None:
    assert sent(limits=AgentLimits(4))["limits"]["max_tokens_per_minute"] is None


@pytest.mark.parametrize("window", [None, 2**32])
def test_a_context_window_that_is_unknown_or_too_large_is_left_out(window: int | None) -> None:
    assert "context_window" not in sent(offer(context_window=window))["models"][0]


@pytest.mark.parametrize(
    "missing",
    [
        {"input_price_per_1m": None},
        {"output_price_per_1m": None},
        {"input_price_per_1m": None, "output_price_per_1m": None},
        {"input_price_per_1m": 0},
    ],
)
def test_a_model_without_both_prices_is_left_out(missing: dict[str, Any]) -> None:
    harness = DialectHarness()
    frame = Capabilities(1, [offer("free", **missing), offer("paid")], AgentLimits(4))
    models = msgspec.json.decode(harness.send(frame))["models"]

    assert [model["model_id"] for model in models] == ["paid"]


LIMITS = AgentLimits(4, 9000)


def message(harness: DialectHarness, frame: Capabilities | Draining) -> Any:
    return msgspec.json.decode(harness.send(frame))


def test_a_drain_withdraws_the_offers_until_the_connection_ends() -> None:
    harness = DialectHarness()
    offers = Capabilities(1, [offer("a"), offer("free", input_price_per_1m=None)], LIMITS)
    assert len(message(harness, offers)["models"]) == 1

    for frame in (Draining(5000), offers, Draining(0)):
        assert message(harness, frame) == {
            "type": "capabilities",
            "models": [],
            "limits": {"max_concurrent_total": 4, "max_tokens_per_minute": 9000},
            "metadata": {"agent_version": "1.2.3"},
        }

    harness.reconnect()
    assert len(message(harness, offers)["models"]) == 1


def test_a_drain_before_the_first_offers_leaves_them_out() -> None:
    harness = DialectHarness()

    assert harness.send(Draining(5000)) == ""
    assert message(harness, Capabilities(1, [offer("a")], LIMITS))["models"] == []
