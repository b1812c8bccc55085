import asyncio
from contextlib import suppress

import pytest
from msgspec import structs

from provider_agent.adapters.base import (
    BackendError,
    BackendHealth,
    BackendModel,
    BackendTimeout,
    BadStatus,
    InvalidResponse,
    Operation,
    ServerLoad,
    Unreachable,
)
from provider_agent.agent.backends.adapter_calls import CANCEL_S
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.backends.discovery import Discovery
from provider_agent.agent.backends.health_check import CHECK_TIMEOUT_S, check_backend
from provider_agent.agent.backends.health_monitor import CLOSE_TIMEOUT_S
from provider_agent.agent.backends.load_reader import LOAD_INTERVAL_S
from provider_agent.agent.backends.offer_groups import ServedModel
from provider_agent.agent.backends.routing import Route
from provider_agent.agent.config import Price, PricingConfig
from provider_agent.protocol.errors import ErrorCode
from tests.kit.discovery_harness import DiscoveryHarness
from tests.kit.scripted_backend import CHAT_AND_MESSAGES, ScriptedBackend, model
from tests.kit.virtual_time import in_virtual_time, now

LOADING = BackendHealth(False, None, "the server is loading its model", loading=True)
UP = BackendHealth(True, 1.0)
DOWN = BackendHealth(False, None, "gone")
SILENT = BackendHealth(False, None, "no answer in time", timed_out=True)


async def test_nothing_is_served_before_the_first_checks() -> None:
    harness = DiscoveryHarness(ScriptedBackend())
    assert harness.models() == []
    assert harness.errors() == ["not checked yet"]
    assert harness.discovery.routes("m") == []


async def test_a_check_without_a_change_is_not_reported() -> None:
    backend = ScriptedBackend("a", model("m"))
    harness = DiscoveryHarness(backend)
    await harness.discovery.check_all()
    assert (harness.models(), harness.changes) == (["m"], 1)
    await harness.discovery.check_all()
    assert harness.changes == 1
    backend.reported_models = [model("m"), model("n")]
    await harness.discovery.check_all()
    assert (harness.models(), harness.changes) == (["m", "n"], 2)
    backend.reported_health = LOADING
    await harness.discovery.check_all()
    assert (harness.models(), harness.changes) == ([], 3)
    await harness.discovery.check_all()
    assert harness.changes == 3


@pytest.mark.parametrize(
    "models",
    [
        pytest.param([model("m", context_window=8192)], id="window"),
        pytest.param([model("m", operations=frozenset({Operation.CHAT}))], id="formats"),
        pytest.param([model("m", prices=(1, 2))], id="prices"),
        pytest.param([model("n")], id="another model"),
        pytest.param([model("m"), model("n")], id="one more"),
        pytest.param([model("m", withheld="no longer")], id="withheld"),
        pytest.param([], id="no models"),
    ],
)
async def test_every_change_of_the_models_is_reported_once(
    models: list[BackendModel],
) -> None:
    backend = ScriptedBackend("a", model("m"))
    harness = DiscoveryHarness(backend)
    await harness.discovery.check_all()
    for expected, reported in [(2, models), (2, models), (3, [model("m")]), (3, [model("m")])]:
        backend.reported_models = list(reported)
        await harness.discovery.check_all()
        assert harness.changes == expected


async def test_a_changed_capacity_is_reported() -> None:
    # In an earlier version, the offer kept the old number of slots after a server had restarted
    # with fewer.
    backend = ScriptedBackend("a", model("m"), max_concurrent=8)
    harness = DiscoveryHarness(backend)
    await harness.discovery.check_all()
    backend.max_concurrent = 2
    await harness.discovery.check_all()
    assert harness.changes == 2


async def test_changed_latency_is_not_reported() -> None:
    backend = ScriptedBackend()
    harness = DiscoveryHarness(backend)
    await harness.discovery.check_all()
    backend.reported_health = BackendHealth(True, 99.0)
    await harness.discovery.check_all()
    assert harness.changes == 1
    assert harness.discovery.states[0].health.latency_ms == 99.0


@pytest.mark.parametrize("health", [DOWN, LOADING, SILENT])
async def test_a_backend_that_is_unhealthy_from_the_start_is_not_reported(
    health: BackendHealth,
) -> None:
    backend = ScriptedBackend()
    backend.reported_health = health
    harness = DiscoveryHarness(backend)
    await harness.discovery.check_all()
    assert harness.changes == 0


async def test_withheld_models_are_kept_with_their_reason_and_never_routed() -> None:
    hidden = model("secret", withheld="not in the operator's list")
    harness = DiscoveryHarness(ScriptedBackend("a", model("m"), hidden))
    await harness.discovery.check_all()
    assert harness.models() == ["m"]
    assert harness.discovery.routes("secret") == []
    (state,) = harness.discovery.states
    assert (state.models, state.withheld) == ((model("m"),), (hidden,))


@pytest.mark.parametrize("where", ["health", "models"])
@pytest.mark.parametrize(
    ("failure", "shown"),
    [
        (Unreachable("connection refused"), "connection refused"),
        (InvalidResponse("odd answer"), "odd answer"),
        (RuntimeError("a defect"), "the adapter failed; see the log"),
        (KeyError("data"), "the adapter failed; see the log"),
        (SystemExit(5), "the adapter failed; see the log"),
        (asyncio.CancelledError(), "the adapter failed; see the log"),
    ],
)
async def test_a_failing_adapter_does_not_affect_other_backends(
    where: str, failure: BaseException, shown: str
) -> None:
    # In an earlier version, an adapter whose `health` raised an exception ended the agent.
    broken, healthy = ScriptedBackend("broken"), ScriptedBackend("healthy", model("m"))
    if where == "health":
        broken.reported_health = failure
    else:
        broken.reported_models = failure
    harness = DiscoveryHarness(broken, healthy)
    await harness.discovery.check_all()
    assert harness.models() == ["m"]
    assert harness.errors() == [shown, None]


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("list_models", None),
        ("list_models", [None]),
        ("list_models", [model("m"), {"model_id": "n"}]),
        ("list_models", [structs.replace(model(), model_id=7)]),
        ("list_models", [structs.replace(model(), operations=None)]),
        ("list_models", [structs.replace(model(), context_window="4k")]),
        ("list_models", [structs.replace(model(), withheld=None)]),
        ("health", None),
        ("health", BackendHealth(True, "fast")),  # type: ignore[arg-type]
        ("max_concurrent", None),
        ("max_concurrent", "8"),
    ],
)
async def test_invalid_value_from_an_adapter_fails_only_its_backend(
    member: str, value: object
) -> None:
    # In an earlier version, a model list of None raised an exception in the monitor, which ended
    # the agent.
    broken, healthy = ScriptedBackend("broken"), ScriptedBackend("healthy", model("m"))

    async def call() -> object:
        return value

    setattr(broken, member, value if member == "max_concurrent" else call)
    harness = DiscoveryHarness(broken, healthy)
    await harness.discovery.check_all()
    assert harness.models() == ["m"]
    assert harness.errors() == ["the adapter failed; see the log", None]


@pytest.mark.parametrize(
    "load",
    [
        ServerLoad(running="many"),  # type: ignore[arg-type]
        asyncio.CancelledError(),
        SystemExit(5),
    ],
)
async def test_invalid_load_from_an_adapter_is_ignored(load: ServerLoad | BaseException) -> None:
    backend = ScriptedBackend("a", model("m"))
    backend.reported_load = load
    harness = DiscoveryHarness(backend)
    await harness.discovery.check_all()
    assert (harness.models(), harness.discovery.states[0].load) == (["m"], None)


@pytest.mark.parametrize(
    ("failure", "loading", "timed_out"),
    [
        (BadStatus(503, b"", ErrorCode.BACKEND_OVERLOADED), True, False),
        (BackendTimeout("silence"), False, True),
        (Unreachable("no such host"), False, False),
    ],
)
async def test_a_failing_model_list_counts_as_a_failing_health_check(
    failure: BackendError, loading: bool, timed_out: bool
) -> None:
    backend = ScriptedBackend()
    backend.reported_models = failure
    health = (await check_backend(backend)).health
    assert (health.reachable, health.loading, health.timed_out) == (False, loading, timed_out)


@pytest.mark.parametrize("where", ["health", "models"])
async def test_a_check_that_times_out_is_ignored_while_jobs_run(where: str) -> None:
    # llama.cpp may have no thread left for health checks while it processes a long prompt.
    backend = ScriptedBackend("a", model("m"))
    harness = DiscoveryHarness(backend)
    await harness.discovery.check_all()
    if where == "health":
        backend.reported_health = SILENT
    else:
        backend.reported_models = BackendTimeout("the server sent nothing for too long")
    attempt = harness.start("a")
    await harness.discovery.check_all()
    assert (harness.models(), harness.errors(), harness.changes) == (["m"], [None], 1)
    attempt.abandoned()
    await harness.discovery.check_all()
    assert (harness.models(), harness.changes) == ([], 2)


@pytest.mark.parametrize("health", [DOWN, LOADING])
async def test_a_failed_check_without_a_timeout_counts_even_while_jobs_run(
    health: BackendHealth,
) -> None:
    backend = ScriptedBackend("a", model("m"))
    harness = DiscoveryHarness(backend)
    harness.start("a")
    await harness.discovery.check_all()
    backend.reported_health = health
    await harness.discovery.check_all()
    assert harness.models() == []


async def test_a_backend_that_never_answered_is_down_even_while_jobs_run() -> None:
    backend = ScriptedBackend("a")
    backend.reported_health = SILENT
    harness = DiscoveryHarness(backend)
    harness.start("a")
    await harness.discovery.check_all()
    assert harness.errors() == ["no answer in time"]


@in_virtual_time
async def test_a_hanging_adapter_times_out_and_does_not_delay_others() -> None:
    hanging, healthy = ScriptedBackend("hanging"), ScriptedBackend("healthy", model("m"))
    hanging.gate.clear()
    harness = DiscoveryHarness(hanging, healthy)
    checks = asyncio.create_task(harness.discovery.check_all())
    await harness.changed.wait()
    assert harness.models() == ["m"]
    assert not checks.done()
    await checks
    assert now() - harness.began == pytest.approx(CHECK_TIMEOUT_S)
    assert harness.errors() == ["no answer to its health check within 60 s", None]
    assert harness.discovery.states[0].health.timed_out


@pytest.mark.parametrize(
    ("method", "limit_s"),
    [
        ("health", CHECK_TIMEOUT_S),
        ("list_models", CHECK_TIMEOUT_S),
        ("load", LOAD_INTERVAL_S),
        ("close", CLOSE_TIMEOUT_S),
    ],
)
@in_virtual_time
async def test_adapter_call_that_ignores_its_cancellation_is_abandoned(
    method: str, limit_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    # In an earlier version, the backend of such an adapter was never checked again, and the agent
    # did not stop.
    release = asyncio.Event()

    async def ignore_cancellation() -> None:
        while not release.is_set():
            with suppress(asyncio.CancelledError):
                await release.wait()

    backend = ScriptedBackend("a", model("m"))
    setattr(backend, method, ignore_cancellation)
    harness = DiscoveryHarness(backend)
    await harness.discovery.check_all()
    await harness.discovery.close()
    assert now() - harness.began == pytest.approx(limit_s + CANCEL_S)
    assert caplog.messages[0] == "adapter ignored cancellation"
    release.set()
    await asyncio.sleep(1)


async def test_without_backends_the_first_checks_are_complete() -> None:
    harness = DiscoveryHarness()
    await harness.discovery.wait_for_first_checks(5.0)
    await harness.discovery.check_all()
    assert (harness.models(), harness.changes) == ([], 0)


async def test_routes_have_order_load_and_capacity() -> None:
    first = ScriptedBackend("a", model("other"), max_concurrent=1)
    second = ScriptedBackend(
        "b", model("m", native=False, prices=(4, 8)), model("other"), max_concurrent=3
    )
    harness = DiscoveryHarness(first, second)
    await harness.discovery.check_all()
    for _ in range(2):
        harness.start("b")
    assert harness.discovery.routes("m") == [
        Route(second, 1, False, frozenset(CHAT_AND_MESSAGES), 2, 3, model_id="m", price=Price(4, 8))
    ]
    assert [one.backend_id for one in harness.discovery.routes("other")] == ["a", "b"]
    assert harness.discovery.routes("unknown") == []


async def test_routes_follow_changed_models_prices_and_breakers() -> None:
    # They are computed from what is remembered between two jobs.
    cheap, dear = ScriptedBackend("a", model("m")), ScriptedBackend("b", model("m"))
    pricing = PricingConfig(default_input_per_1m=1, default_output_per_1m=2)
    backends = Backends([cheap, dear])
    discovery = Discovery(backends, lambda: None, pricing=pricing, clock=now)
    await discovery.check_all()

    def routes(model_id: str = "m") -> list[tuple[str, Price | None]]:
        return [(route.backend_id, route.price) for route in discovery.routes(model_id)]

    assert routes() == routes() == [("a", Price(1, 2)), ("b", Price(1, 2))]
    for request in range(5):
        attempt = discovery.start(discovery.routes("m")[0])
        attempt.failed(Unreachable("refused"), request=request)
    assert routes() == [("b", Price(1, 2))]
    discovery.monitors[0].admission.reset()
    assert routes() == [("a", Price(1, 2)), ("b", Price(1, 2))]
    discovery.set_pricing(PricingConfig(models={"m": Price(3, 4)}))
    discovery.replace_backends(Backends([dear, cheap]))
    assert routes() == [("b", Price(3, 4)), ("a", Price(3, 4))]
    dear.reported_models = [model("n")]
    await discovery.check_all()
    assert (routes(), routes("n")) == ([("a", Price(3, 4))], [("b", None)])


async def test_a_started_attempt_counts_on_its_backend_until_it_is_settled() -> None:
    harness = DiscoveryHarness(ScriptedBackend("a"), ScriptedBackend("b"))
    await harness.discovery.check_all()
    _, route = harness.discovery.routes("m")
    attempt = harness.discovery.start(route)
    assert attempt.backend is route.backend
    assert [one.in_flight for one in harness.discovery.routes("m")] == [0, 1]
    assert harness.discovery.busy_ids == {"b"}
    attempt.succeeded(3)
    attempt.abandoned()
    assert [one.in_flight for one in harness.discovery.routes("m")] == [0, 0]
    assert harness.discovery.busy_ids == frozenset()


async def test_served_models_have_the_price_of_their_backend() -> None:
    backends = [
        ScriptedBackend("a"),
        ScriptedBackend("b", model(native=False, prices=(4, 8))),
    ]
    discovery = Discovery(
        Backends([*backends], {"a": None, "b": 0.25}, [], overflow={"b"}),
        lambda: None,
        pricing=PricingConfig(default_input_per_1m=1, default_output_per_1m=2),
    )
    await discovery.check_all()
    assert discovery.served_models() == [
        ServedModel(backends[0], model(), Price(1, 2)),
        ServedModel(backends[1], model(native=False, prices=(4, 8)), Price(5, 10), overflow=True),
    ]
    assert [route.price for route in discovery.routes("m")] == [Price(1, 2), Price(5, 10)]


async def test_each_change_between_up_and_down_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "provider_agent.agent.backends")
    backend = ScriptedBackend("a", model("m"))
    harness = DiscoveryHarness(backend)
    for reported in [LOADING, LOADING, UP, BackendHealth(True, 2.0), LOADING]:
        backend.reported_health = reported
        await harness.discovery.check_all()
    assert caplog.messages == ["backend is down", "backend is up", "backend is down"]
