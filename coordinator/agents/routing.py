"""Routing: which agent receives a request. No I/O; ADR 11 explains the choice.

Of the agents that offer the operation for the model and have room, the least loaded ones compete,
and share the jobs in proportion to their speed:

::

    load  = min(1, max(model jobs / slots, (in_flight + other_requests) / capacity, cache_used))
            + penalties
    speed = time of the reference job of a typical competitor / its own time, from 1/2 to 2

    competitors: load < lowest load + 1/4
    chosen:      the competitor with the smallest (recent_jobs + 1) / speed

The reference job is about one chat turn (`model_report.REFERENCE_PROMPT_TOKENS`).

The counts of jobs, failures and refusals and, after some jobs, the speed are the coordinator's own.
The rest are claims of agents, which profit from jobs. Therefore a heartbeat can raise an agent's
load, never lower it; a claimed speed changes an agent's share of the jobs by a factor of two at
most; and slots beyond four times those of a typical agent do not lower its load.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import median_high, median_low
from typing import Final, Generic, Protocol, TypeVar

from msgspec import Struct

from provider_agent.coordinator.agents.job_history import History, Seen
from provider_agent.coordinator.agents.model_report import ModelReport
from provider_agent.coordinator.sessions.offers import OfferTable
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation

LOAD_MARGIN: Final = 0.25
"""Agents whose loads differ by less than a quarter of their capacity count as equally loaded."""

COLD_PENALTY: Final = 1.0
"""An idle agent whose server first has to load the model ranks like a full one that has it in
memory."""

DOWN_PENALTY: Final = 2.0
"""An agent that offers the model, and reports that it cannot run it, is the last choice."""

FAILURE_PENALTY: Final = 0.25
"""The penalty of each recent failure: after one, the agent no longer competes with an equally
loaded agent; after four, it ranks like a full one."""

MAX_SLOTS: Final = 4
"""Slots beyond this multiple of those of a typical agent do not lower an agent's load: it may
run as many jobs as it offers, but it does not receive every job while others have room."""

MIN_SPEED: Final = 0.5
MAX_SPEED: Final = 2.0
"""The bounds of a relative speed. An agent that reports no speed counts as slow, so that hiding a
low speed gains nothing."""


class ReportSource(Protocol):
    """An agent's claims about its models."""

    def report(self, model_id: str) -> ModelReport:
        """Return what the agent reports about a model; `NO_REPORT` if the report is too old."""
        ...


class Candidate(Protocol):
    """The state of an agent that routing depends on."""

    @property
    def public_key(self) -> bytes:
        """The agent's identity."""
        ...

    @property
    def offers(self) -> OfferTable | None:
        """The latest offers; None before the first `Capabilities`."""
        ...

    @property
    def in_flight(self) -> int:
        """Jobs without an end."""
        ...

    def in_flight_of(self, model_id: str) -> int:
        """Jobs of one model without an end."""
        ...

    @property
    def draining(self) -> bool:
        """Whether the agent accepts no more jobs."""
        ...

    @property
    def overdue(self) -> bool:
        """Whether the agent may be lost."""
        ...

    @property
    def send_queue_full(self) -> bool:
        """Whether too many bytes of requests are queued for the agent."""
        ...

    @property
    def heartbeat(self) -> ReportSource:
        """The latest heartbeat."""
        ...


CandidateT = TypeVar("CandidateT", bound=Candidate)

_REASONS = (
    ErrorCode.MODEL_NOT_LOADED,
    ErrorCode.FORMAT_NOT_SUPPORTED,
    ErrorCode.DRAINING,
    ErrorCode.OUT_OF_CAPACITY,
)
"""Why a candidate is not eligible, in the order of the checks."""


class _Entry(Struct, Generic[CandidateT], gc=False):
    """An eligible candidate.

    Attributes:
        slots: how many jobs for the model it offers to run at once.
        capacity: how many jobs it offers to run at once.
        in_flight: jobs without an end.
        in_flight_of_model: jobs of the model without an end.
        job_s: the time of the reference job: as measured, or as reported.
    """

    candidate: CandidateT
    report: ModelReport
    seen: Seen
    slots: int
    capacity: int
    in_flight: int
    in_flight_of_model: int
    job_s: float | None
    load: float = 0.0


def choose_agent(
    candidates: Iterable[CandidateT],
    model_id: str,
    operation: Operation,
    history: History,
    *,
    wants_stream: bool = True,
) -> CandidateT | ErrorCode:
    """Choose the agent for a request.

    A tie is broken by the lower load, then by the smaller public key: the choice is deterministic.

    Args:
        candidates: the connected agents; those that do not offer the model make no difference.
        model_id: the requested model.
        operation: the requested operation.
        history: the past jobs of the agents.
        wants_stream: whether the response must be an event stream; some agents send nothing else.

    Returns:
        An eligible candidate. If there is none, the reason why the candidate that passed the most
        checks is not eligible.
    """
    reason = ErrorCode.MODEL_NOT_LOADED
    eligible: list[_Entry[CandidateT]] = []
    for candidate in candidates:
        offers = candidate.offers
        if offers is None or (operations := offers.models.get(model_id)) is None:
            continue
        if operation not in operations or (offers.only_streams and not wants_stream):
            reason = _later_reason(reason, ErrorCode.FORMAT_NOT_SUPPORTED)
        elif candidate.draining:
            reason = _later_reason(reason, ErrorCode.DRAINING)
        elif (entry := _entry(candidate, offers, model_id, history)) is not None:
            eligible.append(entry)
        elif reason is not ErrorCode.OUT_OF_CAPACITY:
            reason = _later_reason(reason, ErrorCode.OUT_OF_CAPACITY)
    if len(eligible) < 2:
        return eligible[0].candidate if eligible else reason
    # The lower median: one high claim must not raise the limit of all.
    max_slots = MAX_SLOTS * median_low([entry.slots for entry in eligible])
    for entry in eligible:
        entry.load = _load(entry, max_slots)
    return _choose_by_speed(eligible, history)


def _entry(
    candidate: CandidateT, offers: OfferTable, model_id: str, history: History
) -> _Entry[CandidateT] | None:
    """Return the entry of a candidate; None if it has no room, or refuses jobs now."""
    in_flight, capacity = candidate.in_flight, offers.capacity
    if in_flight >= capacity:
        return None
    in_flight_of_model, slots = candidate.in_flight_of(model_id), offers.slots[model_id]
    if in_flight_of_model >= slots or candidate.send_queue_full or candidate.overdue:
        return None
    seen = history.seen(candidate.public_key, model_id)
    if seen.refuses:
        return None
    report = candidate.heartbeat.report(model_id)
    job_s = report.job_s if seen.job_s is None else seen.job_s
    return _Entry(candidate, report, seen, slots, capacity, in_flight, in_flight_of_model, job_s)


def _load(entry: _Entry[CandidateT], max_slots: int) -> float:
    """Return the load: the coordinator's own counts, raised by what the agent reports."""
    report, seen = entry.report, entry.seen
    slots, capacity = entry.slots, float(entry.capacity)
    if slots > max_slots:
        slots, capacity = max_slots, capacity * max_slots / slots
    load = entry.in_flight_of_model / slots
    if (other := (entry.in_flight + report.other_requests) / capacity) > load:
        load = other
    if report.cache_used > load:
        load = report.cache_used
    if load > 1.0:
        load = 1.0
    if seen.failures:
        load += min(1.0, FAILURE_PENALTY * seen.failures)
    if report.is_down:
        load += DOWN_PENALTY
    elif report.is_cold:
        load += COLD_PENALTY
    return load


def _choose_by_speed(eligible: Sequence[_Entry[CandidateT]], history: History) -> CandidateT:
    """Choose among the least loaded candidates, so that their shares follow their speeds."""
    limit = min([entry.load for entry in eligible]) + LOAD_MARGIN
    competitors = [entry for entry in eligible if entry.load < limit]
    known = [entry.job_s for entry in competitors if entry.job_s is not None]
    # The higher median: one falsely low time must not make honest agents count as slow.
    typical_s = median_high(known) if known else 0.0
    chosen, chosen_rank = competitors[0].candidate, (math.inf, 0.0, b"")
    for entry in competitors:
        key = entry.candidate.public_key
        share = (history.recent_jobs(key) + 1.0) / relative_speed(entry.job_s, typical_s)
        if share <= chosen_rank[0] and (rank := (share, entry.load, key)) < chosen_rank:
            chosen, chosen_rank = entry.candidate, rank
    return chosen


def relative_speed(job_s: float | None, typical_s: float) -> float:
    """Return how fast an agent is, compared with a typical one and within the bounds.

    Args:
        job_s: seconds that the agent takes for the reference job; None if unknown.
        typical_s: the same for a typical agent.
    """
    if job_s is None:
        return MIN_SPEED
    if job_s <= 0:
        return MAX_SPEED
    speed = typical_s / job_s
    return MIN_SPEED if speed < MIN_SPEED else min(speed, MAX_SPEED)


def _later_reason(one: ErrorCode, other: ErrorCode) -> ErrorCode:
    """Return the reason with the later position in `_REASONS`."""
    return max(one, other, key=_REASONS.index)
