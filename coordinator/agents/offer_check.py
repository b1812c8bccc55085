"""Decides which offered models receive no jobs, and answers `Capabilities` with the reasons."""

from collections.abc import Iterable, Iterator
from typing import Final

from provider_agent.coordinator.agents.notices import REPLACED, duplicate_model
from provider_agent.coordinator.sessions.offers import OfferTable, known_operations
from provider_agent.protocol.frames import (
    Capabilities,
    CoordinatorFrame,
    ModelOffer,
    Notice,
    RoutingStatus,
    UnroutableModel,
)
from provider_agent.protocol.limits import KIB

MAX_ANSWER_BYTES: Final = 256 * KIB
"""The largest `RoutingStatus`; it leaves out the models that do not fit."""

_TEXT_HEADER_BYTES: Final = 8
"""An upper bound for the MessagePack headers per text: the text's own header, and a third of the
header of the array that holds the three texts of a model."""
_MICRO_USD_PER_USD: Final = 1_000_000

_NO_CAPACITY: Final = ("capacity", "The offered capacity is 0.")
_NOT_SUPPORTED: Final = ("not_supported", "This coordinator knows none of its operations.")
_NO_PRICE: Final = ("price", "It has no price, and this coordinator has a price limit.")


def unroutable_models(
    capabilities: Capabilities, *, max_price: float | None, replaced: bool
) -> list[UnroutableModel]:
    """Return the offered models that receive no jobs, in order.

    Args:
        capabilities: the offers.
        max_price: the highest price in US dollars per million tokens; None: no limit.
        replaced: whether another connection of the same key receives the new jobs.
    """
    found = []
    for offer in capabilities.models:
        reason = _reason(offer, capabilities.limits.max_concurrent, max_price, replaced=replaced)
        if reason is not None:
            found.append(UnroutableModel(offer.model_id, *reason))
    return found


def _fitting(models: Iterable[UnroutableModel]) -> Iterator[UnroutableModel]:
    """Yield the first models, as many as fit into `MAX_ANSWER_BYTES`."""
    free_bytes = MAX_ANSWER_BYTES
    for model in models:
        texts = (model.model_id, model.code, model.message)
        free_bytes -= sum(len(text.encode()) + _TEXT_HEADER_BYTES for text in texts)
        if free_bytes < 0:
            return
        yield model


def _reason(
    offer: ModelOffer, capacity: int, max_price: float | None, *, replaced: bool
) -> tuple[str, str] | None:
    """Return code and message; None if the model may receive jobs."""
    if replaced:
        return REPLACED.code, REPLACED.message
    if not capacity or not offer.max_concurrent:
        return _NO_CAPACITY
    if not known_operations(offer):
        return _NOT_SUPPORTED
    return None if max_price is None else _price_reason(offer, max_price)


def _price_reason(offer: ModelOffer, max_price: float) -> tuple[str, str] | None:
    if offer.input_price_per_1m is None or offer.output_price_per_1m is None:
        return _NO_PRICE
    price = max(offer.input_price_per_1m, offer.output_price_per_1m) / _MICRO_USD_PER_USD
    if price <= max_price:
        return None
    return "price", f"${price:g} per million tokens is above the limit of ${max_price:g}."


def check_offers(
    capabilities: Capabilities,
    *,
    max_price: float | None,
    replaced: bool,
    only_streams: bool = False,
) -> tuple[OfferTable, list[CoordinatorFrame]]:
    """Return the offers for routing, and the frames that answer `Capabilities`.

    Args:
        capabilities: the offers.
        max_price: the highest price in US dollars per million tokens; None: no limit.
        replaced: whether another connection of the same key receives the new jobs.
        only_streams: whether the agent answers every job with an event stream.
    """
    unroutable = unroutable_models(capabilities, max_price=max_price, replaced=replaced)
    reasons = {model.model_id: model.message for model in unroutable}
    table = OfferTable(capabilities, reasons, only_streams=only_streams)
    return table, [
        RoutingStatus(capabilities.revision, list(_fitting(unroutable))),
        *_duplicate_notice(capabilities),
    ]


def replaced_status(offers: OfferTable) -> RoutingStatus:
    """Return the status of all offered models after another connection of the key took over."""
    models = (
        UnroutableModel(model_id, REPLACED.code, REPLACED.message)
        for model_id in (*offers.models, *offers.unroutable)
    )
    return RoutingStatus(offers.revision, list(_fitting(models)))


def _duplicate_notice(capabilities: Capabilities) -> list[Notice]:
    """Return a notice about the first model that is offered twice, if there is one."""
    seen: set[str] = set()
    for offer in capabilities.models:
        if offer.model_id in seen:
            return [duplicate_model(offer.model_id)]
        seen.add(offer.model_id)
    return []


def unroutable(offers: OfferTable) -> dict[str, object]:
    """Return, for the log, how many models receive no jobs, and why the first one does not."""
    model_id, reason = next(iter(offers.unroutable.items()))
    return {"models": len(offers.unroutable), "first": model_id, "reason": reason}
