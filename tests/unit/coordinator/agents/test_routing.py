import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from provider_agent.coordinator.agents.job_history import Seen
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
    overdue: bool = False
    send_queue_full: bool = False
    reported: ModelReport = NO_REPORT
    in_flight_of_model: int | None = None
    """By default, `in_flight`: all jobs are for the requested model."""

    def in_flight_of(self, model_id: str) -> int:
        return self.in_flight if self.in_flight_of_model is None else self.in_flight_of_model

    @property
    def heartbeat(self) -> "FakeCandidate":
        return self

    def report(self, model_id: str) -> ModelReport:
        return self.reported if model_id == "tiny" else NO_REPORT


class FakeHistory(Struct):
    """A `History` with the values of each agent by public key."""

    received: dict[bytes, int] = {}
    refused: set[bytes] = set()
    failed: dict[bytes, float] = {}
    measured_s: dict[bytes, float] = {}

    def recent_jobs(self, public_key: bytes) -> float:
        return self.received.get(public_key, 0)

    def seen(self, public_key: bytes, model_id: str) -> Seen:
        return Seen(
            public_key in self.refused,
            self.failed.get(public_key, 0.0),
            self.measured_s.get(public_key),
        )


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
        assert choose_agent(order, "tiny", Operation.CHAT, FakeHistory()) is candidates[chosen]


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
        assert choose_agent(order, "tiny", Operation.CHAT, FakeHistory()) is candidates[chosen]


def shares(reports: list[ModelReport], jobs: int) -> list[int]:
    """How many of `jobs` jobs each agent receives if every job ends before the next one starts."""
    candidates = [
        FakeCandidate(bytes([number]), table(offer()), reported=report)
        for number, report in enumerate(reports)
    ]
    history = FakeHistory(received=dict.fromkeys((one.public_key for one in candidates), 0))
    for _ in range(jobs):
        chosen = choose_agent(candidates, "tiny", Operation.CHAT, history)
        assert isinstance(chosen, FakeCandidate)
        history.received[chosen.public_key] += 1
    return list(history.received.values())


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


def test_agents_without_a_free_slot_for_the_model_do_not_hide_a_free_one() -> None:
    # Regression: routing knew only the limit of the whole agent. Agents with one slot for the model
    # and eight in total received its jobs, refused them, and the free agent was never tried.
    one_slot = msgspec.structs.replace(offer(), max_concurrent=1)
    full = [FakeCandidate(bytes([n]), table(one_slot, capacity=8), 1) for n in range(3)]
    free = FakeCandidate(b"f", table(one_slot, capacity=8), 7, in_flight_of_model=0)

    assert choose_agent([*full, free], "tiny", Operation.CHAT, FakeHistory()) is free
    assert choose_agent(full, "tiny", Operation.CHAT, FakeHistory()) is ErrorCode.OUT_OF_CAPACITY


def test_agent_that_advertises_thousands_of_slots_does_not_receive_every_job() -> None:
    # Regression: the load of the agent with 4,096 slots always rounded to idle.
    big, *small = agents = [
        FakeCandidate(bytes([n]), table(offer(max_concurrent=slots), capacity=slots))
        for n, slots in enumerate([4096, 4, 4])
    ]
    history = FakeHistory(received=dict.fromkeys((one.public_key for one in agents), 0))
    for _ in range(24):
        chosen = choose_agent(agents, "tiny", Operation.CHAT, history)
        assert isinstance(chosen, FakeCandidate)
        chosen.in_flight += 1
        history.received[chosen.public_key] += 1

    assert [one.in_flight for one in small] == [4, 4]
    assert choose_agent(agents, "tiny", Operation.CHAT, history) is big


@pytest.mark.parametrize(
    ("history", "in_flight", "chosen"),
    [
        pytest.param(FakeHistory(refused={b"0"}), [0, 3], 1, id="refused a moment ago"),
        pytest.param(FakeHistory(failed={b"0": 1.0}), [0, 0], 1, id="one failure"),
        pytest.param(FakeHistory(failed={b"0": 1.0}), [0, 3], 0, id="one failure, other busier"),
        pytest.param(FakeHistory(failed={b"0": 9.0}), [0, 3], 1, id="many failures"),
        pytest.param(FakeHistory(measured_s={b"0": 8.0, b"1": 2.0}), [0, 0], 1, id="slower"),
    ],
)
def test_what_the_coordinator_has_seen_counts(
    history: FakeHistory, in_flight: list[int], chosen: int
) -> None:
    candidates = [
        FakeCandidate(str(number).encode(), table(offer()), jobs, reported=SLOW)
        for number, jobs in enumerate(in_flight)
    ]
    for order in (candidates, candidates[::-1]):
        assert choose_agent(order, "tiny", Operation.CHAT, history) is candidates[chosen]


@pytest.mark.parametrize(("measured_s", "chosen"), [({}, 1), ({b"1": 8.0}, 0)])
def test_measured_speed_replaces_the_reported_one(
    measured_s: dict[bytes, float], chosen: int
) -> None:
    candidates = [
        FakeCandidate(b"0", table(offer()), reported=SLOW),
        FakeCandidate(b"1", table(offer()), reported=FAST),
    ]
    history = FakeHistory(measured_s=measured_s)

    assert choose_agent(candidates, "tiny", Operation.CHAT, history) is candidates[chosen]


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
        ([FakeCandidate(b"1", table(offer()), overdue=True)], ErrorCode.OUT_OF_CAPACITY),
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
        "heartbeat overdue",
        "capacity 0",
        "the candidate that passed the most checks",
    ],
)
def test_reason_is_returned_when_no_candidate_is_eligible(
    candidates: list[FakeCandidate], reason: ErrorCode
) -> None:
    assert choose_agent(candidates, "tiny", Operation.MESSAGES, FakeHistory()) is reason


@pytest.mark.parametrize(
    ("only_streams", "wants_stream", "is_chosen"),
    [(True, True, True), (True, False, False), (False, False, True), (False, True, True)],
)
def test_an_agent_that_only_streams_receives_only_requests_for_streams(
    only_streams: bool, wants_stream: bool, is_chosen: bool
) -> None:
    offers = OfferTable(Capabilities(1, [offer()], AgentLimits(8)), only_streams=only_streams)
    agent = FakeCandidate(b"1", offers)
    chosen = choose_agent([agent], "tiny", Operation.CHAT, FakeHistory(), wants_stream=wants_stream)
    assert chosen is (agent if is_chosen else ErrorCode.FORMAT_NOT_SUPPORTED)
