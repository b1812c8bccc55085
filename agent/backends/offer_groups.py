"""Which backends share the offer of a model, and at which price.

A job names only a model id, so a model has one offer, and its jobs may run on every backend of that
offer. Backends share an offer if they are all native or all passthroughs, and have the same price.
Of several such groups, the cheapest native one is offered; if there is no native group, the
cheapest one of passthroughs. A native group without a price counts as the most expensive native
one; a passthrough without a price is never offered. A passthrough with the setting `overflow` joins
the offered group, whose price is then the highest of its members (ADR 16).
"""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from provider_agent.adapters.base import Backend, BackendModel
from provider_agent.agent.config.schema import Price


class ServedModel(Struct, frozen=True):
    """One model of a healthy backend.

    Attributes:
        backend: the backend.
        model: the model.
        price: the backend's own price for the model; None: no price. That of the offer may be
            higher.
        overflow: whether the backend joins the offer of other backends.
    """

    backend: Backend
    model: BackendModel
    price: Price | None = None
    overflow: bool = False


class OfferGroup(Struct, frozen=True):
    """The backends that serve one model id.

    Attributes:
        members: run the jobs of the offer, in the order of the configuration; empty: no offer.
        price: the price of the offer; None: no price.
        withheld: the other backends, each with the reason and advice for the operator.
    """

    members: Sequence[ServedModel]
    price: Price | None = None
    withheld: Sequence[tuple[ServedModel, str, str]] = ()


def group_by_model(serving: Iterable[ServedModel]) -> dict[str, OfferGroup]:
    """Return the group of each model id, in the order of the backends and their models."""
    by_id: dict[str, list[ServedModel]] = {}
    for one in serving:
        by_id.setdefault(one.model.model_id, []).append(one)
    return {model_id: offer_group(served) for model_id, served in by_id.items()}


def offer_group(serving: Sequence[ServedModel]) -> OfferGroup:
    """Choose the backends of the offer of one model.

    Args:
        serving: every backend that serves the model, in the order of the configuration.
    """
    candidates = [one for one in serving if one.model.native or one.price is not None]
    best = min(candidates, key=_rank, default=None)
    members = [one for one in candidates if best is not None and _joins(one, best)]
    ids = {id(one) for one in members}
    withheld = [(one, *_reason(one, best)) for one in serving if id(one) not in ids]
    return OfferGroup(members, _highest([one.price for one in members]), withheld)


def _rank(one: ServedModel) -> tuple[bool, bool, int, int]:
    price = one.price or Price(0, 0)
    total = price.input_per_1m + price.output_per_1m
    return not one.model.native, one.price is None, total, price.input_per_1m


def _joins(one: ServedModel, best: ServedModel) -> bool:
    same = one.model.native == best.model.native and one.price == best.price
    return same or (one.overflow and not one.model.native)


def _highest(prices: Sequence[Price | None]) -> Price | None:
    known = [price for price in prices if price is not None]
    if not known:
        return None
    return Price(
        max(price.input_per_1m for price in known), max(price.output_per_1m for price in known)
    )


def _reason(one: ServedModel, best: ServedModel | None) -> tuple[str, str]:
    """Return why a backend is not in the offer, and what to do about it."""
    if best is None or (not one.model.native and one.price is None):
        problem = one.model.price_unknown or "its price is unknown"
        return problem, "set its price in [pricing.models]"
    advice = "give it another id with `alias`"
    if not one.model.native:
        advice += ", or set `overflow = true` to sell both at the higher price"
    local = best.model.native and not one.model.native
    where = "on your own hardware" if local else "at another price"
    return f"{best.backend.id} offers the same id, {where}", advice
