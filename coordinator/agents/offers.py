"""What an agent offers, as a table to look up, and the choice among agents."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation, WireFormat, find_operation
from provider_agent.protocol.frames import Capabilities, ModelOffer
from provider_agent.protocol.limits import MAX_LIVE_JOBS


class OfferTable:
    """One `Capabilities`, ready for routing.

    Attributes:
        models: each model and its operations; names that this version does not know are left out.
        capacity: jobs at once.
        revision: the agent's count of changes.
    """

    __slots__ = ("capacity", "models", "revision")

    def __init__(self, capabilities: Capabilities) -> None:
        models: dict[str, set[Operation]] = {}
        for offer in capabilities.models:
            models.setdefault(offer.model_id, set()).update(_operations(offer))
        self.models = {model_id: frozenset(found) for model_id, found in models.items()}
        self.capacity = min(capabilities.limits.max_concurrent, MAX_LIVE_JOBS)
        self.revision = capabilities.revision

    def __repr__(self) -> str:
        return f"<OfferTable revision={self.revision} models={len(self.models)}>"

    def speaking(self, wire_format: WireFormat) -> set[str]:
        """The models that have an operation of this format."""
        return {
            model_id
            for model_id, operations in self.models.items()
            if any(operation.wire_format is wire_format for operation in operations)
        }


def _operations(offer: ModelOffer) -> set[Operation]:
    """An offer without operations means the main one of each of its formats."""
    known = {operation.value for operation in Operation}
    if offer.operations:
        return {Operation(name) for name in offer.operations if name in known}
    found = (find_operation(name, "") for name in offer.formats)
    return {operation for operation in found if operation is not None}


class Provider(Protocol):
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
    def clogged(self) -> bool:
        """Whether too much waits to be sent to it already."""
        ...


ProviderT = TypeVar("ProviderT", bound=Provider)


def choose(
    providers: Iterable[ProviderT], model_id: str, operation: Operation
) -> ProviderT | ErrorCode:
    """The least loaded provider that offers the operation for the model.

    Load is jobs by capacity; among equals the smallest public key wins, so that the choice is
    reproducible.

    Returns:
        A provider, or why there is none: the obstacle of the one that came closest.
    """
    reason = ErrorCode.MODEL_NOT_LOADED
    best: ProviderT | None = None
    best_rank = (0.0, b"")
    for provider in providers:
        offers = provider.offers
        if offers is None or model_id not in offers.models:
            continue
        if operation not in offers.models[model_id]:
            reason = _closer(reason, ErrorCode.FORMAT_NOT_SUPPORTED)
        elif provider.draining:
            reason = _closer(reason, ErrorCode.DRAINING)
        elif provider.in_flight >= offers.capacity or provider.clogged:
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
