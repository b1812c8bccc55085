"""Routing: which agent receives a request."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

from provider_agent.coordinator.sessions.offers import OfferTable
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation


class Candidate(Protocol):
    """What the choice looks at."""

    @property
    def public_key(self) -> bytes:
        """Whose it is."""
        ...

    @property
    def offers(self) -> OfferTable | None:
        """What it last told; None before it has told anything."""
        ...

    @property
    def in_flight(self) -> int:
        """Jobs it has now."""
        ...

    @property
    def draining(self) -> bool:
        """Whether it takes no more jobs."""
        ...

    @property
    def send_queue_full(self) -> bool:
        """Whether too much waits to be sent to it already."""
        ...


CandidateT = TypeVar("CandidateT", bound=Candidate)


def choose_agent(
    providers: Iterable[CandidateT], model_id: str, operation: Operation
) -> CandidateT | ErrorCode:
    """The least loaded provider that offers the operation for the model.

    Load is jobs by capacity; among equals the smallest public key wins, so that the choice is
    reproducible.

    Returns:
        A provider, or why there is none: the obstacle of the one that came closest.
    """
    reason = ErrorCode.MODEL_NOT_LOADED
    best: CandidateT | None = None
    best_rank = (0.0, b"")
    for provider in providers:
        offers = provider.offers
        if offers is None or model_id not in offers.models:
            continue
        if operation not in offers.models[model_id]:
            reason = _closer(reason, ErrorCode.FORMAT_NOT_SUPPORTED)
        elif provider.draining:
            reason = _closer(reason, ErrorCode.DRAINING)
        elif provider.in_flight >= offers.capacity or provider.send_queue_full:
            reason = _closer(reason, ErrorCode.OUT_OF_CAPACITY)
        else:
            rank = (provider.in_flight / offers.capacity, provider.public_key)
            if best is None or rank < best_rank:
                best, best_rank = provider, rank
    return reason if best is None else best


_DISTANCE = (
    ErrorCode.MODEL_NOT_LOADED,
    ErrorCode.FORMAT_NOT_SUPPORTED,
    ErrorCode.DRAINING,
    ErrorCode.OUT_OF_CAPACITY,
)


def _closer(one: ErrorCode, other: ErrorCode) -> ErrorCode:
    return max(one, other, key=_DISTANCE.index)
