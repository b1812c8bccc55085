"""The contents of `Capabilities`: the offers, the agent's limits and the operator's metadata."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from provider_agent.agent.backends.offer_groups import OfferGroup, ServedModel, group_by_model
from provider_agent.agent.backends.request_features import common_features
from provider_agent.agent.config.schema import Config
from provider_agent.protocol.field_values import clamp_count, is_name, to_line, valid_count
from provider_agent.protocol.frames import AgentLimits, ModelOffer
from provider_agent.protocol.limits import (
    KIB,
    MAX_MODELS,
    MAX_TEXT_CHARS,
    MIN_MESSAGE_TO_COORDINATOR_BYTES,
)

_OTHER_FIELDS_BYTES: Final = 64 * KIB
"""The largest total size of the fields of `Capabilities` other than the offers."""


def model_offers(serving: Iterable[ServedModel]) -> list[ModelOffer]:
    """Create the offer of each model id, in the order of the backends and their models.

    `offer_groups` chooses the backends of an offer and its price. The offer has the formats and
    operations that any of these backends supports, the smallest known context window, the features
    that all of them support, and the sum of their capacities. Its kind is that of the first one. A
    model whose id no frame can carry is left out, and so are the last models if there are more than
    the protocol or one message allows.
    """
    groups = group_by_model(one for one in serving if is_name(one.model.model_id))
    offers = [_offer(model_id, group) for model_id, group in groups.items() if group.members]
    free_bytes = MIN_MESSAGE_TO_COORDINATOR_BYTES - _OTHER_FIELDS_BYTES
    fitting = []
    for offer in offers[:MAX_MODELS]:
        free_bytes -= len(msgspec.msgpack.encode(offer))
        if free_bytes < 0:
            break
        fitting.append(offer)
    return fitting


def _offer(model_id: str, group: OfferGroup) -> ModelOffer:
    models = [one.model for one in group.members]
    backends = [one.backend for one in group.members]
    windows = [window for model in models if (window := valid_count(model.context_window))]
    features = common_features(models)
    return ModelOffer(
        model_id=model_id,
        formats=sorted({wire_format for model in models for wire_format in model.formats}),
        operations=sorted({operation for model in models for operation in model.operations}),
        context_window=min(windows, default=None),
        native=all(model.native for model in models),
        backend_kind=to_line(backends[0].kind),
        max_concurrent=clamp_count(sum(max(backend.max_concurrent, 0) for backend in backends)),
        input_price_per_1m=group.price.input_per_1m if group.price else None,
        output_price_per_1m=group.price.output_per_1m if group.price else None,
        max_output_tokens=features.max_output_tokens,
        input_kinds=features.input_kinds,
        tools=features.tools,
        json_schema=features.json_schema,
        reasoning=features.reasoning,
    )


def agent_limits(config: Config) -> AgentLimits:
    """Return the configured limits of the whole agent."""
    limits = config.limits
    return AgentLimits(
        clamp_count(limits.max_concurrent), valid_count(limits.max_tokens_per_minute)
    )


def metadata(config: Config) -> Mapping[str, str]:
    """Return the operator's configured name, wallet and e-mail address, without empty values."""
    values = {
        "display_name": config.operator.display_name,
        "wallet": config.operator.wallet,
        "contact_email": config.operator.contact_email,
    }
    return {name: to_line(value, MAX_TEXT_CHARS) for name, value in values.items() if value}
