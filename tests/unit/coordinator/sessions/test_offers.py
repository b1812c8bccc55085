from provider_agent.coordinator.sessions.offers import OfferTable
from provider_agent.protocol.formats import Operation, WireFormat
from provider_agent.protocol.frames import AgentLimits, Capabilities, ModelOffer
from provider_agent.protocol.limits import MAX_LIVE_JOBS
from tests.kit.scripted_agent import offer


def table(*models: ModelOffer, capacity: int = 4) -> OfferTable:
    return OfferTable(Capabilities(7, list(models), AgentLimits(capacity)))


def test_operations_of_one_model_are_merged_without_unknown_operations() -> None:
    offers = table(
        offer("a", operations=["chat", "unknown"]),
        offer("a", operations=["messages"]),
        offer("b", formats=["anthropic", "unknown"], operations=[]),
    )
    assert offers.models == {
        "a": {Operation.CHAT, Operation.MESSAGES},
        "b": {Operation.MESSAGES},
    }
    assert offers.models_for(WireFormat.OPENAI) == {"a"}
    assert offers.models_for(WireFormat.ANTHROPIC) == {"a", "b"}


def test_capacity_is_limited_to_max_live_jobs() -> None:
    assert table(capacity=2**50).capacity == MAX_LIVE_JOBS
