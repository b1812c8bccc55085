"""The models, operations and capacity that an agent offers."""

import functools
from collections.abc import Mapping
from typing import Final

from provider_agent.protocol.formats import Operation, WireFormat, find_operation
from provider_agent.protocol.frames import Capabilities, ModelOffer
from provider_agent.protocol.limits import MAX_LIVE_JOBS

_BY_NAME: Final = {operation.value: operation for operation in Operation}


class OfferTable:
    """One `Capabilities` frame, indexed for routing.

    Args:
        capabilities: the frame.
        unroutable: ids of models that receive no jobs → why; they are left out.
        only_streams: whether the agent answers every job with an event stream.

    Attributes:
        models: model id → operations; unknown operations are left out.
        capacity: how many jobs the agent executes at once, `MAX_LIVE_JOBS` at most.
        unroutable: offered models that receive no jobs → why, as one sentence.
        slots: model id → how many of its jobs may run at once, `capacity` at most.
        revision: the revision of the frame.
        only_streams: whether the agent answers every job with an event stream.
    """

    __slots__ = ("capacity", "models", "only_streams", "revision", "slots", "unroutable")

    def __init__(
        self,
        capabilities: Capabilities,
        unroutable: Mapping[str, str] | None = None,
        *,
        only_streams: bool = False,
    ) -> None:
        self.only_streams = only_streams
        self.unroutable = dict(unroutable or {})
        models: dict[str, set[Operation]] = {}
        for offer in capabilities.models:
            if offer.model_id not in self.unroutable:
                models.setdefault(offer.model_id, set()).update(known_operations(offer))
        self.models = {model_id: frozenset(found) for model_id, found in models.items()}
        self.capacity = min(capabilities.limits.max_concurrent, MAX_LIVE_JOBS)
        self.slots = {
            offer.model_id: min(offer.max_concurrent, self.capacity)
            for offer in capabilities.models
            if offer.model_id in self.models
        }
        self.revision = capabilities.revision

    def __repr__(self) -> str:
        return f"<OfferTable revision={self.revision} models={len(self.models)}>"

    def changed_models(self, older: "OfferTable | None") -> list[str]:
        """Return the models that an older table did not offer, or not in the same way."""
        if older is None or self.capacity != older.capacity:
            return list(self.models)
        return [
            model_id
            for model_id, operations in self.models.items()
            if (older.models.get(model_id), older.slots.get(model_id))
            != (operations, self.slots[model_id])
        ]

    def models_for(self, wire_format: WireFormat) -> set[str]:
        """Return the models that offer at least one operation of this format."""
        return {
            model_id
            for model_id, operations in self.models.items()
            if any(operation.wire_format is wire_format for operation in operations)
        }


@functools.cache  # there are few operations, and so few sets of them
def operation_names(operations: frozenset[Operation]) -> tuple[str, ...]:
    """Return the sorted names of operations."""
    return tuple(sorted(operation.value for operation in operations))


def known_operations(offer: ModelOffer) -> set[Operation]:
    """Return the known ones of an offer's operations.

    If the offer lists no operation at all, return the main operation of each of its formats.
    """
    if offer.operations:
        return {_BY_NAME[name] for name in offer.operations if name in _BY_NAME}
    found = (find_operation(name, "") for name in offer.formats)
    return {operation for operation in found if operation is not None}
