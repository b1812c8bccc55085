"""Routing: which agent receives a request. No I/O; ADR 11 explains the choice.

Of the agents that offer the operation for the model and have capacity, the least loaded ones
compete, and share the jobs in proportion to their speed:

::

    load  = min(1, max((in_flight + other_requests) / capacity, cache_used)) + penalty
    speed = reported speed / median of the competitors, from 1/2 to 2

    competitors: load < lowest load + 1/4
    chosen:      the competitor with the smallest (recent_jobs + 1) / speed

`in_flight` and `recent_jobs` are the coordinator's own counts. The rest are claims of agents, which
profit from jobs. Therefore a heartbeat can raise an agent's load, never lower it, and a claimed
speed changes an agent's share of the jobs by a factor of two at most.
"""

from collections.abc import Callable, Iterable, Sequence
from statistics import median_high
from typing import Final, Protocol, TypeVar

from provider_agent.coordinator.agents.model_report import NO_REPORT, ModelReport
from provider_agent.coordinator.sessions.offers import OfferTable
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation

LOAD_MARGIN: Final = 0.25
"""Agents whose loads differ by less than a quarter of their capacity count as equally loaded."""

COLD_PENALTY: Final = 1.0
"""An idle agent that has to load the model ranks like a fully loaded one that does not."""

DOWN_PENALTY: Final = 2.0
"""An agent that offers the model, and reports that it cannot run it, is the last choice."""

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

    @property
    def draining(self) -> bool:
        """Whether the agent accepts no more jobs."""
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


def choose_agent(
    candidates: Iterable[CandidateT],
    model_id: str,
    operation: Operation,
    recent_jobs: Callable[[bytes], float] = lambda _: 0.0,
) -> CandidateT | ErrorCode:
    """Choose the agent for a request.

    A tie is broken by the lower load, then by the smaller public key: the choice is deterministic.

    Args:
        candidates: the connected agents.
        model_id: the requested model.
        operation: the requested operation.
        recent_jobs: returns how many jobs the agent with a public key received lately.

    Returns:
        An eligible candidate. If there is none, the reason why the candidate that passed the most
        checks is not eligible.
    """
    reason = ErrorCode.MODEL_NOT_LOADED
    eligible: list[tuple[float, ModelReport, CandidateT]] = []
    for candidate in candidates:
        offers = candidate.offers
        if offers is None or model_id not in offers.models:
            continue
        if operation not in offers.models[model_id]:
            reason = _later_reason(reason, ErrorCode.FORMAT_NOT_SUPPORTED)
        elif candidate.draining:
            reason = _later_reason(reason, ErrorCode.DRAINING)
        elif candidate.in_flight >= offers.capacity or candidate.send_queue_full:
            reason = _later_reason(reason, ErrorCode.OUT_OF_CAPACITY)
        else:
            report = candidate.heartbeat.report(model_id)
            load = candidate.in_flight / offers.capacity
            if report is not NO_REPORT:
                load = _reported_load(load, offers.capacity, report)
            eligible.append((load, report, candidate))
    return _choose_by_speed(eligible, recent_jobs) if eligible else reason


def _reported_load(load: float, capacity: int, report: ModelReport) -> float:
    """Raise the coordinator's own view of a load by what the agent reports."""
    load = min(1.0, max(load + report.other_requests / capacity, report.cache_used))
    return load + (DOWN_PENALTY if report.is_down else COLD_PENALTY if report.is_cold else 0.0)


def _choose_by_speed(
    eligible: Sequence[tuple[float, ModelReport, CandidateT]],
    recent_jobs: Callable[[bytes], float],
) -> CandidateT:
    """Choose among the least loaded candidates, so that their shares follow their speeds."""
    limit = min(load for load, _, _ in eligible) + LOAD_MARGIN
    competitors = [entry for entry in eligible if entry[0] < limit]
    times = [report.job_s for _, report, _ in competitors if report.job_s is not None]
    # The higher median: one falsely low time must not make honest agents count as slow.
    typical_s = median_high(times) if times else 0.0

    def rank(entry: tuple[float, ModelReport, CandidateT]) -> tuple[float, float, bytes]:
        load, report, candidate = entry
        key = candidate.public_key
        return (recent_jobs(key) + 1.0) / relative_speed(report.job_s, typical_s), load, key

    return min(competitors, key=rank)[2]


def relative_speed(job_s: float | None, typical_s: float) -> float:
    """Return how fast an agent is, compared with a typical one and within the bounds.

    Args:
        job_s: seconds that the agent takes for the reference job; None if it does not report it.
        typical_s: the same for a typical agent.
    """
    if job_s is None:
        return MIN_SPEED
    return min(MAX_SPEED, max(MIN_SPEED, typical_s / job_s)) if job_s > 0 else MAX_SPEED


def _later_reason(one: ErrorCode, other: ErrorCode) -> ErrorCode:
    """Return the reason with the later position in `_REASONS`."""
    return max(one, other, key=_REASONS.index)
