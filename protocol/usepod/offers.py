"""The offers of an agent in the form of the dialect, where every model has two prices."""

from typing import Final

from msgspec import UNSET

from provider_agent.protocol.frames import Capabilities, ModelOffer
from provider_agent.protocol.usepod.messages import (
    Limits,
    Metadata,
    OfferedCapabilities,
    OfferedModel,
)

_MAX_CONTEXT_WINDOW: Final = 2**32 - 1
"""The Rust agent's type of this field; a larger number is left out."""


def offered_capabilities(frame: Capabilities, agent_version: str) -> OfferedCapabilities:
    """Return the message for the offers of `frame`.

    A model without a price for input or for output is left out; a price of 0 counts as none, as in
    the Rust agent. No model has more concurrent jobs than the whole agent: in the Rust agent's
    messages both numbers are the same, so that a coordinator may read only that of the model.
    """
    models: list[OfferedModel] = []
    for offer in frame.models:
        if offer.input_price_per_1m and offer.output_price_per_1m:
            total = frame.limits.max_concurrent
            prices = offer.input_price_per_1m, offer.output_price_per_1m
            models.append(_model(offer, *prices, max_concurrent=min(offer.max_concurrent, total)))
    limits = Limits(frame.limits.max_concurrent, frame.limits.max_tokens_per_minute)
    return OfferedCapabilities(models, limits, Metadata(agent_version))


def _model(
    offer: ModelOffer, input_per_1m: int, output_per_1m: int, *, max_concurrent: int
) -> OfferedModel:
    window = offer.context_window
    return OfferedModel(
        model_id=offer.model_id,
        input_per_1m=input_per_1m,
        output_per_1m=output_per_1m,
        max_concurrent=max_concurrent,
        backend=offer.backend_kind,
        context_window=UNSET if window is None or window > _MAX_CONTEXT_WINDOW else window,
    )
