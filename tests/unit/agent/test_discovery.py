import asyncio
from collections.abc import Sequence

import pytest

from adapters.base import Backend, BackendHealth, InvalidResponse, Unreachable
from agent.discovery import CHECK_EVERY_S, CHECK_TIMEOUT_S, RECHECK_EVERY_S, Discovery
from agent.routing import Route
from tests.kit.scripted_backend import CHAT_AND_MESSAGES, ScriptedBackend, model
from tests.kit.virtual_time import in_virtual_time, now

LOADING = BackendHealth(False, None, "the server is loading its model")


class Watch:
    """A discovery and how often it reported a change."""

    def __init__(self, *backends: Backend) -> None:
        self.changes = 0
        self.changed = asyncio.Event()
        self.discovery = Discovery(backends, {}, self._count)

    def _count(self) -> None:
        self.changes += 1
        self.changed.set()

    def models(self) -> list[str]:
        return [one.model_id for _, one, _ in self.discovery.serving()]

    def errors(self) -> Sequence[str | None]:
        return [state.health.last_error for state in self.discovery.states]


def idle(backend_id: str) -> int:
    return 0


async def test_nothing_is_served_before_the_first_round() -> None:
    watch = Watch(ScriptedBackend())
    assert watch.models() == []
    assert watch.errors() == ["not asked yet"]
    assert watch.discovery.routes("m", idle) == []


async def test_a_change_is_reported_and_no_change_is_not() -> None:
    backend = ScriptedBackend("a", model("m"))
    watch = Watch(backend)
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


async def test_another_context_window_is_a_change() -> None:
    backend = ScriptedBackend("a", model("m", context_window=4096))
    watch = Watch(backend)
    await watch.discovery.check_all()
    backend.reported_models = [model("m", context_window=8192)]
    await watch.discovery.check_all()
    assert watch.changes == 2


async def test_another_capacity_is_a_change() -> None:
    # A server restarted with fewer slots was offered with the old number until its models changed.
    backend = ScriptedBackend("a", model("m"), max_concurrent=8)
    watch = Watch(backend)
    await watch.discovery.check_all()
    backend.max_concurrent = 2
    await watch.discovery.check_all()
    assert watch.changes == 2


async def test_latency_alone_is_no_change() -> None:
    backend = ScriptedBackend()
    watch = Watch(backend)
    await watch.discovery.check_all()
    backend.reported_health = BackendHealth(True, 99.0)
    await watch.discovery.check_all()
    assert watch.changes == 1
    assert watch.discovery.states[0].health.latency_ms == 99.0


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
    watch = Watch(broken, well)
    await watch.discovery.check_all()
    assert watch.models() == ["m"]
    assert watch.errors() == [shown, None]


@in_virtual_time
async def test_a_hanging_adapter_holds_up_nobody_and_is_given_up_on() -> None:
    hanging, well = ScriptedBackend("hanging"), ScriptedBackend("well", model("m"))
    hanging.gate.clear()
    watch = Watch(hanging, well)
    began = now()
    round_ = asyncio.create_task(watch.discovery.check_all())
    await watch.changed.wait()
    assert watch.models() == ["m"]
    assert not round_.done()
    await round_
    assert now() - began == pytest.approx(CHECK_TIMEOUT_S)
    assert watch.errors() == ["no answer to its health check within 60 s", None]


@in_virtual_time
async def test_a_loading_backend_is_asked_again_soon_and_comes_up() -> None:
    backend = ScriptedBackend("a", model("m"))
    backend.reported_health = LOADING
    watch = Watch(backend)
    running = asyncio.create_task(watch.discovery.run())
    began = now()
    await asyncio.sleep(3 * RECHECK_EVERY_S - 1)
    assert backend.asked == 3
    assert watch.changes == 0
    backend.reported_health = BackendHealth(True, 1.0)
    await watch.changed.wait()
    assert now() - began == pytest.approx(3 * RECHECK_EVERY_S)
    assert watch.models() == ["m"]
    await asyncio.sleep(CHECK_EVERY_S - 1)
    assert backend.asked == 4, "a healthy one is left in peace"
    await asyncio.sleep(2)
    assert backend.asked == 5
    await stopped(running)


async def stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@in_virtual_time
async def test_waiting_for_the_first_round_ends_with_it_or_with_the_time() -> None:
    backend = ScriptedBackend()
    backend.gate.clear()
    watch = Watch(backend)
    running = asyncio.create_task(watch.discovery.run())
    began = now()
    await watch.discovery.wait_for_first_round(5.0)
    assert now() - began == pytest.approx(5.0)
    backend.gate.set()
    await watch.discovery.wait_for_first_round(5.0)
    assert now() - began == pytest.approx(5.0)
    assert watch.models() == ["m"]
    await stopped(running)


async def test_an_agent_without_backends_has_nothing_to_wait_for() -> None:
    watch = Watch()
    await watch.discovery.check_all()
    await watch.discovery.wait_for_first_round(5.0)
    assert (watch.models(), watch.changes) == ([], 0)


async def test_routes_carry_what_routing_decides_by() -> None:
    first = ScriptedBackend("a", model("other"), max_concurrent=1)
    second = ScriptedBackend("b", model("m", native=False), model("other"), max_concurrent=3)
    watch = Watch(first, second)
    await watch.discovery.check_all()
    assert watch.discovery.routes("m", {"b": 2}.__getitem__) == [
        Route("b", 1, False, frozenset(CHAT_AND_MESSAGES), 2, 3)
    ]
    assert [one.backend_id for one in watch.discovery.routes("other", idle)] == ["a", "b"]
    assert watch.discovery.routes("nobody's", idle) == []
    assert watch.discovery.backend("b") is second


async def test_what_is_served_comes_with_the_markup_of_its_backend() -> None:
    backends = [ScriptedBackend("a"), ScriptedBackend("b")]
    discovery = Discovery(backends, {"a": None, "b": 0.25}, lambda: None)
    await discovery.check_all()
    assert [(backend.id, markup) for backend, _, markup in discovery.serving()] == [
        ("a", None),
        ("b", 0.25),
    ]


async def test_ups_and_downs_are_logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "provider_agent.discovery")
    backend = ScriptedBackend("a", model("m"))
    watch = Watch(backend)
    for reported in [LOADING, LOADING, BackendHealth(True, 1.0), BackendHealth(True, 2.0), LOADING]:
        backend.reported_health = reported
        await watch.discovery.check_all()
    assert caplog.messages == ["backend is down", "backend is up", "backend is down"]
