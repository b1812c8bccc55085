import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from provider_agent.coordinator.agents.model_report import NO_REPORT, ModelReport
from provider_agent.coordinator.agents.routing import choose_agent
from provider_agent.coordinator.sessions.offers import OfferTable
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation
from provider_agent.protocol.frames import AgentLimits, Capabilities, ModelOffer
from tests.kit.scripted_agent import offer


def table(*models: ModelOffer, capacity: int = 4) -> OfferTable:
    return OfferTable(Capabilities(7, list(models), AgentLimits(capacity)))


class FakeCandidate(Struct):
    """A `Candidate` that is also its own `heartbeat`, a `ReportSource`."""

    public_key: bytes
    offers: OfferTable | None
    in_flight: int = 0
    draining: bool = False
    send_queue_full: bool = False
    reported: ModelReport = NO_REPORT

    @property
    def heartbeat(self) -> "FakeCandidate":
        return self

    def report(self, model_id: str) -> ModelReport:
        return self.reported if model_id == "tiny" else NO_REPORT


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


SLOW, FAST = ModelReport(job_s=8.0), ModelReport(job_s=2.0)


@pytest.mark.parametrize(
    ("reports", "in_flight", "chosen"),
    [
        pytest.param([SLOW, FAST], [0, 0], 1, id="faster"),
        pytest.param([NO_REPORT, SLOW], [0, 0], 1, id="no speed reported"),
        pytest.param([SLOW, FAST], [0, 1], 0, id="faster, and busier"),
        pytest.param([ModelReport(other_requests=1), NO_REPORT], [0, 0], 1, id="other clients"),
        pytest.param(
            [ModelReport(other_requests=9), NO_REPORT], [0, 3], 1, id="many other clients"
        ),
        pytest.param([ModelReport(cache_used=0.5), NO_REPORT], [0, 1], 1, id="half-full cache"),
        pytest.param([ModelReport(is_cold=True), NO_REPORT], [0, 2], 1, id="cold"),
        pytest.param(
            [ModelReport(is_cold=True), ModelReport(1, 0.9)], [0, 3], 0, id="cold, other full"
        ),
        pytest.param([ModelReport(is_down=True), NO_REPORT], [0, 3], 1, id="down"),
        pytest.param(
            [ModelReport(is_down=True), ModelReport(is_cold=True)], [0, 3], 1, id="down and cold"
        ),
    ],
)
def test_load_matters_more_than_speed_and_a_cold_model_counts_as_full_load(
    reports: list[ModelReport], in_flight: list[int], chosen: int
) -> None:
    candidates = [
        FakeCandidate(bytes([number]), table(offer(), capacity=4), jobs, reported=report)
        for number, (report, jobs) in enumerate(zip(reports, in_flight, strict=True))
    ]
    for order in (candidates, candidates[::-1]):
        assert choose_agent(order, "tiny", Operation.CHAT) is candidates[chosen]


def shares(reports: list[ModelReport], jobs: int) -> list[int]:
    """How many of `jobs` jobs each agent receives if every job ends before the next one starts."""
    candidates = [
        FakeCandidate(bytes([number]), table(offer()), reported=report)
        for number, report in enumerate(reports)
    ]
    received = dict.fromkeys((candidate.public_key for candidate in candidates), 0)
    for _ in range(jobs):
        chosen = choose_agent(candidates, "tiny", Operation.CHAT, received.__getitem__)
        assert isinstance(chosen, FakeCandidate)
        received[chosen.public_key] += 1
    return list(received.values())


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        ([NO_REPORT, NO_REPORT, NO_REPORT], [20, 20, 20]),
        ([SLOW, SLOW, FAST], [15, 15, 30]),
        ([NO_REPORT, SLOW, SLOW], [12, 24, 24]),
    ],
)
def test_equally_loaded_agents_share_the_jobs_by_their_speed(
    reports: list[ModelReport], expected: list[int]
) -> None:
    assert shares(reports, sum(expected)) == expected


claims = st.builds(
    ModelReport,
    other_requests=st.integers(0, 2**53),
    cache_used=st.floats(0, 1),
    is_cold=st.booleans(),
    is_down=st.booleans(),
    job_s=st.none() | st.floats(0, 1e300),
)


@given(claims, st.integers(2, 5))
def test_a_claimed_speed_at_most_doubles_the_number_of_jobs(
    claim: ModelReport, honest: int
) -> None:
    # An agent profits from jobs, and can report a false speed in its heartbeats to receive more.
    claimed, *others = shares([claim, *[ModelReport(job_s=4.0)] * honest], 60)

    assert claimed <= 2 * min(others) + 2


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
