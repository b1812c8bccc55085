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


def offered_capabilities(
    frame: Capabilities, agent_version: str
) -> tuple[OfferedCapabilities, list[str]]:
    """Return the message for the offers of `frame`, and the ids of the models that it leaves out.

    A model without a price for input or for output is left out; a price of 0 counts as none, as in
    the Rust agent.
    """
    models: list[OfferedModel] = []
    withheld: list[str] = []
    for offer in frame.models:
        if offer.input_price_per_1m and offer.output_price_per_1m:
            models.append(_model(offer, offer.input_price_per_1m, offer.output_price_per_1m))
        else:
            withheld.append(offer.model_id)
    limits = Limits(frame.limits.max_concurrent, frame.limits.max_tokens_per_minute)
    return OfferedCapabilities(models, limits, Metadata(agent_version)), withheld


def _model(offer: ModelOffer, input_per_1m: int, output_per_1m: int) -> OfferedModel:
    window = offer.context_window
    return OfferedModel(
        model_id=offer.model_id,
        input_per_1m=input_per_1m,
        output_per_1m=output_per_1m,
        max_concurrent=offer.max_concurrent,
        backend=offer.backend_kind,
        context_window=UNSET if window is None or window > _MAX_CONTEXT_WINDOW else window,
    )
