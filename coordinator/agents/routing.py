"""Routing: which agent receives a request."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

from provider_agent.coordinator.sessions.offers import OfferTable
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation


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
        """Whether too many bytes are queued for the agent."""
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
    candidates: Iterable[CandidateT], model_id: str, operation: Operation
) -> CandidateT | ErrorCode:
    """Choose the least loaded candidate that offers the operation for the model.

    Load is `in_flight` divided by capacity. The smallest public key breaks a tie, so that the
    choice is deterministic.

    Returns:
        An eligible candidate. If there is none, the reason why the candidate that passed the most
        checks is not eligible.
    """
    reason = ErrorCode.MODEL_NOT_LOADED
    best: CandidateT | None = None
    best_rank = (0.0, b"")
    for candidate in candidates:
        offers = candidate.offers
        if offers is None or model_id not in offers.models:
            continue
        if operation not in offers.models[model_id]:
            reason = _later(reason, ErrorCode.FORMAT_NOT_SUPPORTED)
        elif candidate.draining:
            reason = _later(reason, ErrorCode.DRAINING)
        elif candidate.in_flight >= offers.capacity or candidate.send_queue_full:
            reason = _later(reason, ErrorCode.OUT_OF_CAPACITY)
        else:
            rank = (candidate.in_flight / offers.capacity, candidate.public_key)
            if best is None or rank < best_rank:
                best, best_rank = candidate, rank
    return reason if best is None else best


def _later(one: ErrorCode, other: ErrorCode) -> ErrorCode:
    """The reason with the later position in `_REASONS`."""
    return max(one, other, key=_REASONS.index)
