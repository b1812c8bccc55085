import asyncio
from collections.abc import Sequence

import pytest

from provider_agent.adapters.base import (
    Backend,
    BackendError,
    BackendHealth,
    BackendModel,
    BackendTimeout,
    BadStatus,
    InvalidResponse,
    Operation,
    Unreachable,
)
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.backends.discovery import Discovery
from provider_agent.agent.backends.health_monitor import CHECK_TIMEOUT_S, check_backend
from provider_agent.agent.backends.routing import Route
from provider_agent.protocol.errors import ErrorCode
from tests.kit.scripted_backend import CHAT_AND_MESSAGES, ScriptedBackend, model
from tests.kit.virtual_time import in_virtual_time, now

LOADING = BackendHealth(False, None, "the server is loading its model", loading=True)
UP = BackendHealth(True, 1.0)
DOWN = BackendHealth(False, None, "gone")
SILENT = BackendHealth(False, None, "no answer in time", timed_out=True)


class HealthMonitor:
    """A discovery and how often it reported a change."""

    def __init__(self, *backends: Backend) -> None:
        self.changes = 0
        self.changed = asyncio.Event()
        self.discovery = Discovery(Backends(list(backends), {}, []), self._count, clock=now)

    def _count(self) -> None:
        self.changes += 1
        self.changed.set()

    def models(self) -> list[str]:
        return [one.model_id for _, one, _ in self.discovery.serving()]

    def errors(self) -> Sequence[str | None]:
        return [state.health.last_error for state in self.discovery.states]


async def test_nothing_is_served_before_the_first_round() -> None:
    watch = HealthMonitor(ScriptedBackend())
    assert watch.models() == []
    assert watch.errors() == ["not asked yet"]
    assert watch.discovery.routes("m") == []


async def test_a_change_is_reported_and_no_change_is_not() -> None:
    backend = ScriptedBackend("a", model("m"))
    watch = HealthMonitor(backend)
    await watch.discovery.check_all()
    assert (watch.models(), watch.changes) == (["m"], 1)
    await watch.discovery.check_all()
    assert watch.changes == 1
    backend.reported_models = [model("m"), model("n")]
    await watch.discovery.check_all()
    assert (watch.models(), watch.changes) == (["m", "n"], 2)
    backend.reported_health = LOADING
    await watch.discovery.check_all()
    assert (watch.models(), watch.changes) == ([], 3)
    await watch.discovery.check_all()
    assert watch.changes == 3


@pytest.mark.parametrize(
    "models",
    [
        pytest.param([model("m", context_window=8192)], id="window"),
        pytest.param([model("m", operations=frozenset({Operation.CHAT}))], id="formats"),
        pytest.param([model("m", prices=(1, 2))], id="prices"),
        pytest.param([model("n")], id="another model"),
        pytest.param([model("m"), model("n")], id="one more"),
        pytest.param([model("m", withheld="no longer")], id="withheld"),
        pytest.param([], id="none"),
    ],
)
async def test_whatever_changes_of_the_models_is_told_once_each_way(
    models: list[BackendModel],
) -> None:
    backend = ScriptedBackend("a", model("m"))
    watch = HealthMonitor(backend)
    await watch.discovery.check_all()
    for expected, reported in [(2, models), (2, models), (3, [model("m")]), (3, [model("m")])]:
        backend.reported_models = list(reported)
        await watch.discovery.check_all()
        assert watch.changes == expected


async def test_another_capacity_is_a_change() -> None:
    # A server restarted with fewer slots was offered with the old number until its models changed.
    backend = ScriptedBackend("a", model("m"), max_concurrent=8)
    watch = HealthMonitor(backend)
    await watch.discovery.check_all()
    backend.max_concurrent = 2
    await watch.discovery.check_all()
    assert watch.changes == 2


async def test_latency_alone_is_no_change() -> None:
    backend = ScriptedBackend()
    watch = HealthMonitor(backend)
    await watch.discovery.check_all()
    backend.reported_health = BackendHealth(True, 99.0)
    await watch.discovery.check_all()
    assert watch.changes == 1
    assert watch.discovery.states[0].health.latency_ms == 99.0


@pytest.mark.parametrize("health", [DOWN, LOADING, SILENT])
async def test_a_backend_that_offers_nothing_from_the_start_is_no_change(
    health: BackendHealth,
) -> None:
    backend = ScriptedBackend()
    backend.reported_health = health
    watch = HealthMonitor(backend)
    await watch.discovery.check_all()
    assert watch.changes == 0


async def test_withheld_models_are_kept_with_their_reason_and_never_routed() -> None:
    hidden = model("secret", withheld="not in the operator's list")
    watch = HealthMonitor(ScriptedBackend("a", model("m"), hidden))
    await watch.discovery.check_all()
    assert watch.models() == ["m"]
    assert watch.discovery.routes("secret") == []
    (state,) = watch.discovery.states
    assert (state.models, state.withheld) == ((model("m"),), (hidden,))


@pytest.mark.parametrize("where", ["health", "models"])
@pytest.mark.parametrize(
    ("failure", "shown"),
    [
        (Unreachable("connection refused"), "connection refused"),
        (InvalidResponse("odd answer"), "odd answer"),
        (RuntimeError("a defect"), "the adapter failed; see the log"),
        (KeyError("data"), "the adapter failed; see the log"),
    ],
)
async def test_a_failing_adapter_does_not_hurt_the_others(
    where: str, failure: Exception, shown: str
) -> None:
    # One whose `health` raised once took the whole agent down.
    broken, well = ScriptedBackend("broken"), ScriptedBackend("well", model("m"))
    if where == "health":
        broken.reported_health = failure
    else:
        broken.reported_models = failure
    watch = HealthMonitor(broken, well)
    await watch.discovery.check_all()
    assert watch.models() == ["m"]
    assert watch.errors() == [shown, None]


@pytest.mark.parametrize(
    ("failure", "loading", "timed_out"),
    [
        (BadStatus(503, b"", ErrorCode.BACKEND_OVERLOADED), True, False),
        (BackendTimeout("silence"), False, True),
        (Unreachable("no such host"), False, False),
    ],
)
async def test_a_failing_model_list_is_judged_like_a_failing_health_check(
    failure: BackendError, loading: bool, timed_out: bool
) -> None:
    backend = ScriptedBackend()
    backend.reported_models = failure
    health = (await check_backend(backend)).health
    assert (health.reachable, health.loading, health.timed_out) == (False, loading, timed_out)


@pytest.mark.parametrize("where", ["health", "models"])
async def test_silence_is_no_death_while_jobs_go_on(where: str) -> None:
    # llama.cpp has no thread left for questions while it works on a long prompt.
    backend = ScriptedBackend("a", model("m"))
    watch = HealthMonitor(backend)
    await watch.discovery.check_all()
    if where == "health":
        backend.reported_health = SILENT
    else:
        backend.reported_models = BackendTimeout("the server sent nothing for too long")
    number = watch.discovery.job_started("a")
    await watch.discovery.check_all()
    assert (watch.models(), watch.errors(), watch.changes) == (["m"], [None], 1)
    watch.discovery.job_stopped("a", number)
    await watch.discovery.check_all()
    assert (watch.models(), watch.changes) == ([], 2)


@pytest.mark.parametrize("health", [DOWN, LOADING])
async def test_a_clear_answer_counts_even_while_jobs_go_on(health: BackendHealth) -> None:
    backend = ScriptedBackend("a", model("m"))
    watch = HealthMonitor(backend)
    watch.discovery.job_started("a")
    await watch.discovery.check_all()
    backend.reported_health = health
    await watch.discovery.check_all()
    assert watch.models() == []


async def test_a_backend_silent_from_the_start_is_not_up_because_of_anything() -> None:
    backend = ScriptedBackend("a")
    backend.reported_health = SILENT
    watch = HealthMonitor(backend)
    watch.discovery.job_started("a")
    await watch.discovery.check_all()
    assert watch.errors() == ["no answer in time"]


@in_virtual_time
async def test_a_hanging_adapter_holds_up_nobody_and_is_given_up_on() -> None:
    hanging, well = ScriptedBackend("hanging"), ScriptedBackend("well", model("m"))
    hanging.gate.clear()
    watch = HealthMonitor(hanging, well)
    began = now()
    round_ = asyncio.create_task(watch.discovery.check_all())
    await watch.changed.wait()
    assert watch.models() == ["m"]
    assert not round_.done()
    await round_
    assert now() - began == pytest.approx(CHECK_TIMEOUT_S)
    assert watch.errors() == ["no answer to its health check within 60 s", None]
    assert watch.discovery.states[0].health.timed_out


async def test_an_agent_without_backends_has_nothing_to_wait_for() -> None:
    watch = HealthMonitor()
    await watch.discovery.wait_for_first_round(5.0)
    await watch.discovery.check_all()
    assert (watch.models(), watch.changes) == ([], 0)


async def test_routes_carry_what_routing_decides_by() -> None:
    first = ScriptedBackend("a", model("other"), max_concurrent=1)
    second = ScriptedBackend("b", model("m", native=False), model("other"), max_concurrent=3)
    watch = HealthMonitor(first, second)
    await watch.discovery.check_all()
    for _ in range(2):
        watch.discovery.job_started("b")
    assert watch.discovery.routes("m") == [Route("b", 1, False, frozenset(CHAT_AND_MESSAGES), 2, 3)]
    assert [one.backend_id for one in watch.discovery.routes("other")] == ["a", "b"]
    assert watch.discovery.routes("nobody's") == []
    assert watch.discovery.backend("b") is second


async def test_what_is_served_comes_with_the_markup_of_its_backend() -> None:
    backends = [ScriptedBackend("a"), ScriptedBackend("b")]
    discovery = Discovery(Backends([*backends], {"a": None, "b": 0.25}, []), lambda: None)
    await discovery.check_all()
    assert [(backend.id, markup) for backend, _, markup in discovery.serving()] == [
        ("a", None),
        ("b", 0.25),
    ]


async def test_ups_and_downs_are_logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "provider_agent.agent.backends")
    backend = ScriptedBackend("a", model("m"))
    watch = HealthMonitor(backend)
    for reported in [LOADING, LOADING, UP, BackendHealth(True, 2.0), LOADING]:
        backend.reported_health = reported
        await watch.discovery.check_all()
    assert caplog.messages == ["backend is down", "backend is up", "backend is down"]
