import pytest
from msgspec import Struct

from provider_agent.coordinator.agents.routing import choose_agent
from provider_agent.coordinator.sessions.offers import OfferTable
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation
from provider_agent.protocol.frames import AgentLimits, Capabilities, ModelOffer
from tests.kit.scripted_agent import offer


def table(*models: ModelOffer, capacity: int = 4) -> OfferTable:
    return OfferTable(Capabilities(7, list(models), AgentLimits(capacity)))


class FakeCandidate(Struct):
    public_key: bytes
    offers: OfferTable | None
    in_flight: int = 0
    draining: bool = False
    send_queue_full: bool = False


@pytest.mark.parametrize(
    ("loads", "chosen"),
    [
        pytest.param([(0, 4), (0, 4)], 0, id="tie"),
        pytest.param([(1, 4), (0, 4)], 1, id="fewer jobs"),
        pytest.param([(1, 4), (1, 8)], 1, id="more capacity"),
        pytest.param([(1, 1), (7, 8)], 1, id="first at capacity"),
    ],
)
def test_least_loaded_agent_is_chosen_and_the_smallest_key_breaks_a_tie(
    loads: list[tuple[int, int]], chosen: int
) -> None:
    candidates = [
        FakeCandidate(bytes([number]), table(offer(), capacity=capacity), in_flight)
        for number, (in_flight, capacity) in enumerate(loads)
    ]
    for order in (candidates, candidates[::-1]):
        assert choose_agent(order, "tiny", Operation.CHAT) is candidates[chosen]


CHAT_ONLY = table(offer(operations=["chat"]))


@pytest.mark.parametrize(
    ("candidates", "reason"),
    [
        ([], ErrorCode.MODEL_NOT_LOADED),
        ([FakeCandidate(b"1", None)], ErrorCode.MODEL_NOT_LOADED),
        ([FakeCandidate(b"1", table(offer("other")))], ErrorCode.MODEL_NOT_LOADED),
        ([FakeCandidate(b"1", CHAT_ONLY)], ErrorCode.FORMAT_NOT_SUPPORTED),
        ([FakeCandidate(b"1", table(offer()), draining=True)], ErrorCode.DRAINING),
        ([FakeCandidate(b"1", table(offer()), send_queue_full=True)], ErrorCode.OUT_OF_CAPACITY),
        ([FakeCandidate(b"1", table(offer(), capacity=0))], ErrorCode.OUT_OF_CAPACITY),
        (
            [FakeCandidate(b"1", table(offer()), 4), FakeCandidate(b"2", CHAT_ONLY)],
            ErrorCode.OUT_OF_CAPACITY,
        ),
    ],
    ids=[
        "no candidate",
        "no offers yet",
        "other model",
        "other operation",
        "draining",
        "send queue full",
        "capacity 0",
        "the candidate that passed the most checks",
    ],
)
def test_reason_is_returned_when_no_candidate_is_eligible(
    candidates: list[FakeCandidate], reason: ErrorCode
) -> None:
    assert choose_agent(candidates, "tiny", Operation.MESSAGES) is reason
