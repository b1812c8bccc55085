from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from provider_agent.agent.backends.routing import Refusal, Route, choose_routes
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation, find_operation
from tests.kit.scripted_backend import ScriptedBackend

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
    return Route(ScriptedBackend(backend_id), order, native, operations, in_flight, capacity)


@pytest.mark.parametrize(
    ("routes", "expected"),
    [
        pytest.param([route("a")], ["a"], id="one route"),
        pytest.param(
            [route("far", 0, native=False), route("near", 1, in_flight=3)],
            ["near", "far"],
            id="native before passthrough, even if the native backend is busier",
        ),
        pytest.param(
            [route("a", 0, in_flight=2), route("b", 1, in_flight=1)],
            ["b", "a"],
            id="least loaded first",
        ),
        pytest.param(
            [route("small", 0, in_flight=1, capacity=2), route("big", 1, in_flight=2, capacity=8)],
            ["big", "small"],
            id="load is relative to capacity",
        ),
        pytest.param(
            [route("second", 1), route("third", 2), route("first", 0)],
            ["first", "second", "third"],
            id="equal routes in the order of the configuration",
        ),
        pytest.param(
            [route("full", 0, in_flight=4), route("free", 1, native=False, in_flight=3)],
            ["free"],
            id="a full backend is left out",
        ),
        pytest.param(
            [route("limited", 0, capacity=0), route("free", 1)],
            ["free"],
            id="a backend whose admission control refuses jobs is left out",
        ),
        pytest.param(
            [route("a", 0, operations=frozenset({"messages"})), route("b", 1)],
            ["b"],
            id="a backend without the format is left out",
        ),
    ],
)
def test_routes_are_ordered_native_first_then_by_load(
    routes: list[Route], expected: list[str]
) -> None:
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
        # The only backend that supports the format is at capacity: the client may retry.
        (
            "anthropic",
            "",
            [route("a", operations=frozenset({"chat"})), route("b", in_flight=4)],
            "out_of_capacity",
        ),
    ],
)
def test_refusal_has_the_code_of_its_cause(
    wire_format: str, operation: str, routes: list[Route], code: str
) -> None:
    refusal = choose_routes(wire_format, operation, routes)
    assert isinstance(refusal, Refusal)
    assert refusal.code is ErrorCode(code)
    assert refusal.message


def test_refusal_names_the_unsupported_operation() -> None:
    refusal = choose_routes("openai", "embeddings", [route("a")])
    assert isinstance(refusal, Refusal)
    assert "'embeddings' in format 'openai'" in refusal.message


some_routes = st.lists(
    st.builds(
        Route,
        backend=st.uuids().map(lambda number: ScriptedBackend(str(number))),
        order=st.integers(0, 9),
        native=st.booleans(),
        operations=st.frozensets(st.sampled_from([str(one) for one in Operation])),
        in_flight=st.integers(0, 5),
        capacity=st.integers(0, 5),  # 0: admission control refuses jobs
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
def test_every_free_route_that_supports_the_job_is_chosen_in_a_fixed_order(
    routes: list[Route], wire_format: str, operation: str
) -> None:
    wanted = find_operation(wire_format, operation)
    free = [one for one in routes if wanted in one.operations and one.in_flight < one.capacity]
    chosen = choose_routes(wire_format, operation, routes)
    assert choose_routes(wire_format, operation, reversed(routes)) == chosen
    if isinstance(chosen, Refusal):
        assert not free
        return
    assert sorted(chosen, key=lambda one: one.order) == sorted(free, key=lambda one: one.order)
    for better, worse in pairwise(chosen):
        assert better.native >= worse.native
        if better.native == worse.native:
            # Each `in_flight / capacity`, multiplied by both capacities to avoid rounding.
            load = better.in_flight * worse.capacity, worse.in_flight * better.capacity
            assert load[0] <= load[1]
            assert load[0] < load[1] or better.order < worse.order


@given(some_routes.filter(bool))
def test_refusal_has_the_shortest_known_wait(routes: list[Route]) -> None:
    full = [structs.replace(one, capacity=0, operations=BOTH) for one in routes]
    refusal = choose_routes("openai", "", full)
    assert isinstance(refusal, Refusal)
    known = [one.retry_after_s for one in full if one.retry_after_s is not None]
    assert refusal.code is ErrorCode.OUT_OF_CAPACITY
    assert refusal.retry_after_s == min(known, default=None)
