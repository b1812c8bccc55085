import pytest
from msgspec.structs import replace

from provider_agent.coordinator.agents.offer_check import MAX_ANSWER_BYTES, check_offers
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.frames import (
    AgentLimits,
    Capabilities,
    CoordinatorFrame,
    ModelOffer,
    Notice,
    RoutingStatus,
)
from tests.kit.scripted_agent import offer


def answer_to(
    *offers: ModelOffer,
    capacity: int = 4,
    max_price: float | None = None,
    replaced: bool = False,
) -> tuple[set[str], RoutingStatus, list[CoordinatorFrame]]:
    """The routable models, the routing status and the notices."""
    frame = Capabilities(7, list(offers), AgentLimits(capacity))
    table, (status, *notices) = check_offers(frame, max_price=max_price, replaced=replaced)
    assert isinstance(status, RoutingStatus)
    assert status.revision == 7
    return set(table.models), status, notices


def priced(input_price: int | None, output_price: int | None) -> ModelOffer:
    return replace(offer("m"), input_price_per_1m=input_price, output_price_per_1m=output_price)


@pytest.mark.parametrize(
    ("given", "conditions", "code"),
    [
        (offer("m"), {}, None),
        (offer("m"), {"capacity": 0}, "capacity"),
        (replace(offer("m"), max_concurrent=0), {}, "capacity"),
        (offer("m"), {"replaced": True}, "replaced"),
        (offer("m", operations=["unknown"]), {}, "not_supported"),
        (offer("m", formats=["unknown"], operations=[]), {}, "not_supported"),
        (offer("m", operations=["unknown", "chat"]), {}, None),
        (priced(None, None), {}, None),
        (priced(None, 1), {"max_price": 2.0}, "price"),
        (priced(1_000_000, 2_000_000), {"max_price": 2.0}, None),
        (priced(1_000_000, 2_000_001), {"max_price": 2.0}, "price"),
        (priced(2_000_001, 0), {"max_price": 2.0}, "price"),
        (priced(0, 0), {"max_price": 0.0}, None),
    ],
)
def test_a_model_is_routable_or_reported_with_the_reason(
    given: ModelOffer, conditions: dict[str, float], code: str | None
) -> None:
    routable, status, notices = answer_to(given, **conditions)  # type: ignore[arg-type]

    assert [one.code for one in status.unroutable] == ([] if code is None else [code])
    assert routable == (set() if code is not None else {"m"})
    assert notices == []


def test_only_the_first_duplicate_model_causes_a_notice() -> None:
    routable, status, notices = answer_to(offer("a"), offer("b"), offer("b"), offer("a"))

    assert (routable, status.unroutable) == ({"a", "b"}, [])
    (notice,) = notices
    assert isinstance(notice, Notice)
    assert (notice.code, notice.model_id) == ("duplicate_model", "b")


def test_answer_is_bounded() -> None:
    offers = [offer(f"{number:04}{'é' * 508}") for number in range(4096)]

    routable, status, _ = answer_to(*offers, replaced=True)

    assert routable == set()

    assert 100 < len(status.unroutable) < 4096
    assert len(VERSION_1.encode([status])) <= MAX_ANSWER_BYTES + 64
