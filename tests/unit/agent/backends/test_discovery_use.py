"""Backends that come, go and change while the agent runs."""

import asyncio

import pytest

from provider_agent.adapters.base import Backend, BackendHealth, Unreachable
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.backends.discovery import REMEMBERED_BACKENDS, Discovery
from provider_agent.agent.backends.health_monitor import CHECK_TIMEOUT_S, LOAD_EVERY_S
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.virtual_time import in_virtual_time, now


class Watching:
    """A running discovery whose backends the test exchanges."""

    def __init__(self, *backends: Backend) -> None:
        self.changes = 0
        self.discovery = Discovery(Backends([*backends], {}, []), self._count, clock=now)
        self._task: asyncio.Task[None] | None = None

    def _count(self) -> None:
        self.changes += 1

    def use(self, *backends: Backend, **markups: float) -> None:
        self.discovery.use(Backends([*backends], {**markups}, []))

    async def __aenter__(self) -> Discovery:
        self._task = asyncio.create_task(self.discovery.run())
        await self.discovery.wait_for_first_round(5.0)
        return self.discovery

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        assert not self._task.done(), "it must not end by itself"
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def ids(discovery: Discovery, model_id: str = "m") -> list[tuple[str, int]]:
    return [(route.backend_id, route.order) for route in discovery.routes(model_id)]


@in_virtual_time
async def test_a_new_backend_is_looked_at_at_once_and_served() -> None:
    first, second = ScriptedBackend("a"), ScriptedBackend("b")
    watching = Watching(first)
    async with watching as discovery:
        watching.use(first, second)
        began = now()
        await asyncio.sleep(1)
        assert second.asked_at == [began]
        assert ids(discovery) == [("a", 0), ("b", 1)]
        await asyncio.sleep(200)
        assert second.asked == 4


@in_virtual_time
async def test_the_first_backend_of_an_agent_without_any_is_watched() -> None:
    watching = Watching()
    async with watching as discovery:
        watching.use(ScriptedBackend("a"))
        await asyncio.sleep(1)
        assert ids(discovery) == [("a", 0)]


@in_virtual_time
async def test_the_order_of_the_configuration_is_the_order_of_preference() -> None:
    first, second = ScriptedBackend("a"), ScriptedBackend("b")
    watching = Watching(first, second)
    async with watching as discovery:
        watching.use(second, first, b=0.5)
        assert ids(discovery) == [("b", 0), ("a", 1)]
        assert [state.backend.id for state in discovery.states] == ["b", "a"]
        assert [(one.id, markup) for one, _, markup in discovery.serving()] == [
            ("b", 0.5),
            ("a", None),
        ]


@in_virtual_time
async def test_an_unchanged_backend_keeps_its_health_and_its_breaker() -> None:
    kept, out = ScriptedBackend("kept"), ScriptedBackend("out")
    watching = Watching(kept, out)
    async with watching as discovery:
        for _ in range(5):
            discovery.job_ended("out", discovery.job_started("out"), Unreachable("refused"), 0)
        asked = kept.asked
        watching.use(kept, out, ScriptedBackend("new"))
        assert ids(discovery) == [("kept", 0)]
        assert discovery.guard("out").is_out
        await asyncio.sleep(1)
        assert kept.asked == asked
        assert ids(discovery) == [("kept", 0), ("new", 2)]


@in_virtual_time
async def test_a_removed_backend_gets_no_job_is_not_asked_and_is_closed() -> None:
    first, second = ScriptedBackend("a"), ScriptedBackend("b")
    watching = Watching(first, second)
    async with watching as discovery:
        watching.use(second)
        assert ids(discovery) == [("b", 0)]
        assert watching.changes == 3
        asked = first.asked, first.load_asked
        await asyncio.sleep(300)
        assert first.closed
        assert (first.asked, first.load_asked) == asked
        assert not second.closed
        assert watching.changes == 3


@in_virtual_time
async def test_a_removed_backend_is_closed_when_its_last_job_has_ended() -> None:
    backend = ScriptedBackend("a")
    watching = Watching(backend)
    async with watching as discovery:
        numbers = [discovery.job_started("a") for _ in range(3)]
        watching.use()
        await asyncio.sleep(600)
        assert (backend.closed, discovery.busy_ids) == (False, frozenset({"a"}))
        assert discovery.backend("a") is backend
        discovery.job_ended("a", numbers[0], None, 10)
        discovery.job_ended("a", numbers[1], Unreachable("refused"), 0)
        await asyncio.sleep(60)
        assert not backend.closed
        discovery.job_stopped("a", numbers[2])
        await asyncio.sleep(0)
        assert (backend.closed, discovery.busy_ids) == (True, frozenset())
        assert discovery.backend("a") is backend, "the end of a job may be told a moment later"


@in_virtual_time
async def test_the_jobs_of_a_changed_backend_report_to_the_old_one() -> None:
    old, new = ScriptedBackend("a"), ScriptedBackend("a#2")
    watching = Watching(old)
    async with watching as discovery:
        numbers = [discovery.job_started("a") for _ in range(5)]
        watching.use(new)
        await asyncio.sleep(1)
        for number in numbers:
            discovery.job_ended("a", number, Unreachable("refused"), 0)
        assert discovery.guard("a").is_out
        assert ids(discovery) == [("a#2", 0)]
        assert [route.in_flight for route in discovery.routes("m")] == [0]


@in_virtual_time
async def test_an_id_is_free_again_after_the_last_job() -> None:
    old, new = ScriptedBackend("a"), ScriptedBackend("a")
    watching = Watching(old)
    async with watching as discovery:
        discovery.job_stopped("a", discovery.job_started("a"))
        watching.use(new)
        await asyncio.sleep(1)
        assert (old.closed, new.closed) == (True, False)
        assert discovery.backend("a") is new
        assert ids(discovery) == [("a", 0)]


@in_virtual_time
async def test_what_a_look_finds_out_too_late_is_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = ScriptedBackend("a")
    backend.gate.clear()
    backend.reported_health = BackendHealth(False, None, "gone")
    watching = Watching(backend)
    async with watching:
        watching.use()
        backend.gate.set()
        await asyncio.sleep(CHECK_TIMEOUT_S + LOAD_EVERY_S)
        assert backend.closed
        assert (caplog.messages, watching.changes) == ([], 1)


@in_virtual_time
async def test_the_first_round_does_not_wait_for_a_removed_backend() -> None:
    hanging, well = ScriptedBackend("hanging"), ScriptedBackend("well")
    hanging.gate.clear()
    watching = Watching(hanging, well)
    async with watching as discovery:
        began = now()
        waiting = asyncio.create_task(discovery.wait_for_first_round(60.0))
        await asyncio.sleep(0)
        watching.use(well)
        await waiting
        assert now() == began


@in_virtual_time
async def test_another_interval_is_in_force_at_once() -> None:
    backend = ScriptedBackend("a")
    watching = Watching(backend)
    async with watching as discovery:
        await asyncio.sleep(5)
        discovery.look_every(10.0)
        discovery.look_every(10.0)
        await asyncio.sleep(25)
        assert [at - backend.asked_at[0] for at in backend.asked_at] == [0, 5, 15, 25]


@in_virtual_time
async def test_everything_is_closed_at_the_end_once() -> None:
    class Counting(ScriptedBackend):
        times = 0

        async def close(self) -> None:
            self.times += 1

    class Unclosable(Counting):
        async def close(self) -> None:
            await super().close()
            raise RuntimeError("a defect")

    backends = [Unclosable("broken"), Counting("gone"), Counting("busy"), Counting("used")]
    watching = Watching(*backends)
    async with watching as discovery:
        discovery.job_started("busy")
        watching.use(backends[0], backends[3])
        await asyncio.sleep(100)
        assert [one.times for one in backends] == [0, 1, 0, 0]
    await watching.discovery.close()
    await watching.discovery.close()
    assert [one.times for one in backends] == [1, 1, 1, 1]


@in_virtual_time
async def test_backends_of_long_ago_are_forgotten() -> None:
    watching = Watching()
    async with watching as discovery:
        for number in range(3 * REMEMBERED_BACKENDS):
            watching.use(ScriptedBackend(str(number)))
            await asyncio.sleep(1)
        assert len(discovery._retired) <= REMEMBERED_BACKENDS + 1
        assert len(asyncio.all_tasks()) == 3, "this one, the discovery, and one watch"
