import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from provider_agent.adapters.base import Operation
from provider_agent.agent.backends.capabilities import model_offers
from provider_agent.agent.backends.offer_groups import ServedModel, group_by_model, offer_group
from provider_agent.agent.backends.pricing import OfferedPrice
from provider_agent.agent.config import Price
from tests.kit.scripted_backend import ScriptedBackend, model

CHAT = frozenset({Operation.CHAT})


DEAR = Price(30, 60)
ALIAS = "give it another id with `alias`"
BOTH = f"{ALIAS}, or set `overflow = true` to sell both at the higher price"


def local(backend_id: str = "local", price: Price | None = None) -> ServedModel:
    return ServedModel(ScriptedBackend(backend_id), model(operations=CHAT), price)


def remote(
    backend_id: str = "remote", price: Price | None = DEAR, *, overflow: bool = False
) -> ServedModel:
    return ServedModel(ScriptedBackend(backend_id), model(native=False), price, overflow)


@pytest.mark.parametrize(
    ("serving", "members", "price"),
    [
        ([local(), remote()], ["local"], None),
        ([remote(), local()], ["local"], None),
        ([remote(), local(price=Price(1, 2))], ["local"], Price(1, 2)),
        # The operator set the same price for both, but the passthrough still costs money.
        ([local(price=Price(1, 2)), remote(price=Price(1, 2))], ["local"], Price(1, 2)),
        ([local("a"), local("b")], ["a", "b"], None),
        ([remote("a", Price(5, 5)), remote("b", Price(5, 4))], ["b"], Price(5, 4)),
        ([remote("a", Price(5, 4)), remote("b", Price(5, 4))], ["a", "b"], Price(5, 4)),
        ([remote("a", None), remote("b", Price(5, 4))], ["b"], Price(5, 4)),
        ([remote("a", None), local("b")], ["b"], None),
        ([remote("a", None, overflow=True), local("b")], ["b"], None),
        ([remote("a", None)], [], None),
        ([local(), remote(overflow=True)], ["local", "remote"], Price(30, 60)),
        (
            [local(price=Price(40, 50)), remote(overflow=True)],
            ["local", "remote"],
            Price(40, 60),
        ),
        (
            [remote("a", Price(5, 4)), remote("b", Price(1, 2)), remote("c", overflow=True)],
            ["b", "c"],
            Price(30, 60),
        ),
        ([], [], None),
    ],
)
def test_backends_share_an_offer_only_at_one_price_or_by_the_overflow_setting(
    serving: list[ServedModel], members: list[str], price: Price | None
) -> None:
    group = offer_group(serving)

    assert [one.backend.id for one in group.members] == members
    assert group.price == price
    withheld = {one.backend.id for one, *_ in group.withheld}
    assert withheld == {one.backend.id for one in serving} - set(members)


@pytest.mark.parametrize(
    ("serving", "reason", "advice"),
    [
        (
            [local(), remote()],
            "local offers the same id, on your own hardware",
            BOTH,
        ),
        (
            [remote("a"), remote("b", Price(1, 2))],
            "b offers the same id, at another price",
            BOTH,
        ),
        (
            [local("a", Price(2, 2)), local("b", Price(1, 2))],
            "b offers the same id, at another price",
            ALIAS,
        ),
        ([remote(price=None)], "its price is unknown", "set its price in [pricing.models]"),
        (
            [
                ServedModel(
                    ScriptedBackend("a"),
                    replace(model(native=False), price_unknown="it costs a fee per request"),
                )
            ],
            "it costs a fee per request",
            "set its price in [pricing.models]",
        ),
    ],
)
def test_the_reason_names_the_other_backend_and_the_settings(
    serving: list[ServedModel], reason: str, advice: str
) -> None:
    ((_, *texts),) = offer_group(serving).withheld

    assert texts == [reason, advice]


def test_an_offer_has_only_the_formats_of_the_backends_that_run_jobs_at_its_price() -> None:
    # A local server of one format and a passthrough of both were merged: every Anthropic job went
    # to the passthrough, at the local price.
    (offer,) = model_offers([local(price=Price(1, 2)), remote()])
    assert (offer.operations, offer.native) == (["chat"], True)
    both = 2 * offer.max_concurrent
    assert (offer.input_price_per_1m, offer.output_price_per_1m) == (1, 2)

    (offer,) = model_offers([local(price=Price(1, 2)), remote(overflow=True)])
    assert (offer.operations, offer.native) == (["chat", "messages"], False)
    assert offer.max_concurrent == both
    assert (offer.input_price_per_1m, offer.output_price_per_1m) == (30, 60)


prices = st.none() | st.builds(Price, st.integers(0, 3), st.integers(0, 3))
served = st.builds(
    lambda name, native, price, overflow: ServedModel(
        ScriptedBackend(name), model(native=native), price, overflow and not native
    ),
    st.uuids().map(str),
    st.booleans(),
    prices,
    st.booleans(),
)


@given(st.lists(served, max_size=5))
def test_no_job_costs_the_operator_more_than_its_offer(serving: list[ServedModel]) -> None:
    group = offer_group(serving)

    assert len(group.members) + len(group.withheld) == len(serving)
    for offer in model_offers(serving):
        offered = OfferedPrice(offer.input_price_per_1m, offer.output_price_per_1m, offer.native)
        for one in group.members:
            assert offered.covers(one.price, native=one.model.native)
        # Without `overflow`, native backends and passthroughs do not share an offer.
        for one in group.members:
            assert (
                one.overflow
                or one.model.native == group.members[0].model.native
                or any(other.overflow for other in group.members)
            )


@given(st.lists(served, max_size=5))
def test_the_grouping_does_not_depend_on_the_order(serving: list[ServedModel]) -> None:
    forward, backward = offer_group(serving), offer_group(serving[::-1])
    assert forward.price == backward.price
    assert [*forward.members] == [*reversed(backward.members)]


@given(st.lists(served, max_size=5))
def test_backends_with_the_same_model_id_are_grouped(serving: list[ServedModel]) -> None:
    assert list(group_by_model(serving).values()) == ([offer_group(serving)] if serving else [])
