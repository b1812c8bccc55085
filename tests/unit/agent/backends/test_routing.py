from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from provider_agent.agent.backends.routing import Refusal, Route, choose_routes
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation, find_operation

BOTH = frozenset({"chat", "messages"})


def route(
    backend_id: str,
    order: int = 0,
    *,
    native: bool = True,
    operations: frozenset[str] = BOTH,
    in_flight: int = 0,
    capacity: int = 4,
) -> Route:
    return Route(backend_id, order, native, operations, in_flight, capacity)


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        pytest.param([route("a")], ["a"], id="the only one"),
        pytest.param(
            [route("far", 0, native=False), route("near", 1, in_flight=3)],
            ["near", "far"],
            id="local before remote, even when it is busier",
        ),
        pytest.param(
            [route("a", 0, in_flight=2), route("b", 1, in_flight=1)],
            ["b", "a"],
            id="least loaded first",
        ),
        pytest.param(
            [route("small", 0, in_flight=1, capacity=2), route("big", 1, in_flight=2, capacity=8)],
            ["big", "small"],
            id="load is a share of what a backend takes",
        ),
        pytest.param(
            [route("second", 1), route("third", 2), route("first", 0)],
            ["first", "second", "third"],
            id="equals in the order of the configuration",
        ),
        pytest.param(
            [route("full", 0, in_flight=4), route("free", 1, native=False, in_flight=3)],
            ["free"],
            id="a full backend is left out",
        ),
        pytest.param(
            [route("guarded", 0, capacity=0), route("free", 1)],
            ["free"],
            id="one whose guard lets nothing in is left out",
        ),
        pytest.param(
            [route("a", 0, operations=frozenset({"messages"})), route("b", 1)],
            ["b"],
            id="one that does not speak the format is left out",
        ),
    ],
)
def test_candidates_come_in_order(routes: list[Route], expected: list[str]) -> None:
    chosen = choose_routes("openai", "", routes)
    assert not isinstance(chosen, Refusal)
    assert [one.backend_id for one in chosen] == expected


@pytest.mark.parametrize(
    ("wire_format", "operation", "routes", "code"),
    [
        ("openai", "", [], "model_not_loaded"),
        ("anthropic", "", [route("a", operations=frozenset({"chat"}))], "format_not_supported"),
        ("openai", "embeddings", [route("a")], "format_not_supported"),
        ("openai", "messages", [route("a")], "format_not_supported"),
        ("openai", "not invented yet", [route("a")], "format_not_supported"),
        ("grpc", "", [route("a")], "format_not_supported"),
        ("openai", "", [route("a", in_flight=4)], "out_of_capacity"),
        ("openai", "", [route("a", in_flight=5)], "out_of_capacity"),
        # A full backend that speaks the format tells more than a free one that does not.
        (
            "anthropic",
            "",
            [route("a", operations=frozenset({"chat"})), route("b", in_flight=4)],
            "out_of_capacity",
        ),
    ],
)
def test_what_cannot_run_is_refused_with_its_reason(
    wire_format: str, operation: str, routes: list[Route], code: str
) -> None:
    refusal = choose_routes(wire_format, operation, routes)
    assert isinstance(refusal, Refusal)
    assert refusal.code is ErrorCode(code)
    assert refusal.message


def test_the_message_names_the_operation_that_nobody_speaks() -> None:
    refusal = choose_routes("openai", "embeddings", [route("a")])
    assert isinstance(refusal, Refusal)
    assert "'embeddings' in format 'openai'" in refusal.message


some_routes = st.lists(
    st.builds(
        Route,
        backend_id=st.uuids().map(str),
        order=st.integers(0, 9),
        native=st.booleans(),
        operations=st.frozensets(st.sampled_from([str(one) for one in Operation])),
        in_flight=st.integers(0, 5),
        capacity=st.integers(0, 5),  # 0: its guard lets nothing in
        retry_after_s=st.one_of(st.none(), st.floats(0.1, 100)),
    ),
    max_size=8,
    unique_by=lambda one: one.order,
)


@given(
    some_routes,
    st.sampled_from(["openai", "anthropic", "grpc"]),
    st.sampled_from(["", *map(str, Operation)]),
)
def test_only_and_all_backends_that_speak_it_and_are_free_whatever_their_order(
    routes: list[Route], wire_format: str, operation: str
) -> None:
    wanted = find_operation(wire_format, operation)
    able = [one for one in routes if wanted in one.operations and one.in_flight < one.capacity]
    chosen = choose_routes(wire_format, operation, routes)
    assert choose_routes(wire_format, operation, reversed(routes)) == chosen
    if isinstance(chosen, Refusal):
        assert not able
        return
    assert sorted(chosen, key=lambda one: one.order) == sorted(able, key=lambda one: one.order)
    for better, worse in pairwise(chosen):
        assert better.native >= worse.native
        if better.native == worse.native:
            load = better.in_flight * worse.capacity, worse.in_flight * better.capacity
            assert load[0] <= load[1]
            assert load[0] < load[1] or better.order < worse.order


@given(some_routes.filter(bool))
def test_a_refusal_tells_the_soonest_that_is_known(routes: list[Route]) -> None:
    full = [structs.replace(one, capacity=0, operations=BOTH) for one in routes]
    refusal = choose_routes("openai", "", full)
    assert isinstance(refusal, Refusal)
    known = [one.retry_after_s for one in full if one.retry_after_s is not None]
    assert refusal.code is ErrorCode.OUT_OF_CAPACITY
    assert refusal.retry_after_s == min(known, default=None)
