"""How backends are watched over time: when they are asked, and what takes them out."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from types import TracebackType
from typing import Self

import pytest

from provider_agent.adapters.base import (
    Backend,
    BackendError,
    BackendHealth,
    BadRequest,
    BadStatus,
    MissingApiKey,
    ModelNotFound,
    ServerLoad,
    Unreachable,
)
from provider_agent.agent.backends.admission import MAX_TOLD_REST_S
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.backends.discovery import CHECK_EVERY_S, Discovery
from provider_agent.agent.backends.health_monitor import (
    LOAD_EVERY_S,
    LOADING_EVERY_S,
    POKE_REST_S,
    RETRY_CAP_S,
)
from provider_agent.protocol.errors import ErrorCode
from tests.kit.scripted_backend import ScriptedBackend, model
from tests.kit.virtual_time import in_virtual_time, now

LOADING = BackendHealth(False, None, "the server is loading its model", loading=True)
UP = BackendHealth(True, 1.0)
DOWN = BackendHealth(False, None, "gone")
REST_S = 10.0
"""What the default rule lets a backend rest the first time."""


class Watching:
    """A running discovery, and when it reported changes."""

    def __init__(
        self, *backends: Backend, interval_s: float = CHECK_EVERY_S, jitter: float = 1.0
    ) -> None:
        self.began = now()
        self.changed_at: list[float] = []
        self.changed = asyncio.Event()
        self.discovery = Discovery(
            Backends(list(backends), {}, []),
            self._note,
            interval_s=interval_s,
            clock=now,
            uniform=lambda: jitter,
        )
        self._task: asyncio.Task[None] | None = None

    def _note(self) -> None:
        self.changed_at.append(now())
        self.changed.set()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.discovery.run())
        await self.discovery.wait_for_first_round(5.0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        assert not self._task.done(), "it must not end by itself"
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def models(self) -> list[str]:
        return [one.model_id for _, one, _ in self.discovery.serving()]

    def fail(self, backend: Backend, error: BackendError, times: int = 1) -> None:
        for _ in range(times):
            number = self.discovery.job_started(backend.id)
            self.discovery.job_ended(backend.id, number, error, 0)

    def succeed(self, backend: Backend) -> None:
        number = self.discovery.job_started(backend.id)
        self.discovery.job_ended(backend.id, number, None, 10)

    async def next_change(self) -> float:
        """When the next change comes."""
        self.changed.clear()
        await self.changed.wait()
        return now() - self.began


def gaps(times: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


# --- when it is asked -----------------------------------------------------------------------------


@pytest.mark.parametrize("interval_s", [1.0, 7.0, 60.0])
@in_virtual_time
async def test_a_healthy_backend_is_asked_at_once_and_every_interval(interval_s: float) -> None:
    backend = ScriptedBackend()
    async with Watching(backend, interval_s=interval_s) as watching:
        await asyncio.sleep(3.5 * interval_s)
        assert backend.asked_at[0] == watching.began
        assert gaps(backend.asked_at) == pytest.approx([interval_s] * 3)
        assert watching.changed_at == [watching.began]


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
@in_virtual_time
async def test_a_backend_that_is_down_is_asked_less_and_less_often(jitter: float) -> None:
    backend = ScriptedBackend()
    backend.reported_health = DOWN
    async with Watching(backend, jitter=jitter) as watching:
        await asyncio.sleep(300)
        share = 0.5 + 0.5 * jitter
        expected = [share * min(2.0**number, RETRY_CAP_S) for number in range(1, 9)]
        assert gaps(backend.asked_at)[:8] == pytest.approx(expected)
        assert watching.changed_at == []


@in_virtual_time
async def test_the_backoff_begins_anew_after_it_was_up() -> None:
    backend = ScriptedBackend()
    backend.reported_health = DOWN
    async with Watching(backend) as watching:
        await asyncio.sleep(200)
        backend.reported_health = UP
        await watching.changed.wait()
        backend.reported_health = DOWN
        await watching.next_change()
        before = len(backend.asked_at)
        await asyncio.sleep(7)
        assert gaps(backend.asked_at[before - 1 :]) == pytest.approx([2.0, 4.0])


@in_virtual_time
async def test_a_loading_backend_is_asked_often_and_comes_up() -> None:
    backend = ScriptedBackend("a", model("m"))
    backend.reported_health = LOADING
    async with Watching(backend) as watching:
        await asyncio.sleep(100 * LOADING_EVERY_S - 1)
        assert gaps(backend.asked_at) == pytest.approx([LOADING_EVERY_S] * 99)
        assert watching.changed_at == []
        backend.reported_health = UP
        assert await watching.next_change() == pytest.approx(100 * LOADING_EVERY_S)
        assert watching.models() == ["m"]
        asked = backend.asked
        await asyncio.sleep(CHECK_EVERY_S - 1)
        assert backend.asked == asked, "a healthy one is left in peace"


@in_virtual_time
async def test_a_hanging_backend_keeps_no_other_from_being_watched() -> None:
    # All first looks were once waited for before any backend was watched.
    hanging, loading = ScriptedBackend("hanging"), ScriptedBackend("b", model("m"))
    hanging.gate.clear()
    loading.reported_health = LOADING
    async with Watching(hanging, loading) as watching:
        loading.reported_health = UP
        await watching.changed.wait()
        assert now() - watching.began < 10
        assert watching.models() == ["m"]


@in_virtual_time
async def test_waiting_for_the_first_round_ends_with_it_or_with_the_time() -> None:
    backend = ScriptedBackend()
    backend.gate.clear()
    async with Watching(backend) as watching:
        assert now() - watching.began == pytest.approx(5.0)
        backend.gate.set()
        await watching.discovery.wait_for_first_round(5.0)
        assert now() - watching.began == pytest.approx(5.0)
        assert watching.models() == ["m"]


@pytest.mark.parametrize(
    ("failure", "looked_at"),
    [
        (Unreachable("refused"), True),
        (ModelNotFound("gone"), True),
        (MissingApiKey("refused key"), True),
        (BadStatus(500, b"", ErrorCode.BACKEND_ERROR), True),
        (BadStatus(503, b"", ErrorCode.BACKEND_OVERLOADED), False),
        (BadRequest("the client's"), False),
        (BadStatus(400, b"", ErrorCode.CONTEXT_LENGTH_EXCEEDED), False),
    ],
)
@in_virtual_time
async def test_a_failing_job_has_its_backend_looked_at_at_once(
    failure: BackendError, looked_at: bool
) -> None:
    backend, other = ScriptedBackend("a", model("m")), ScriptedBackend("b", model("m"))
    async with Watching(backend, other) as watching:
        await asyncio.sleep(20)
        backend.reported_health = DOWN
        watching.fail(backend, failure)
        await asyncio.sleep(1)
        assert [one - watching.began for one in backend.asked_at[1:]] == ([20] if looked_at else [])
        assert other.asked == 1
        assert watching.models() == (["m"] if looked_at else ["m", "m"])


@in_virtual_time
async def test_many_failing_jobs_do_not_ask_without_a_pause() -> None:
    # A model that is listed and answers 404 would have the whole list read for every job.
    backend = ScriptedBackend()
    async with Watching(backend) as watching:
        await asyncio.sleep(20)
        for _ in range(100):
            watching.fail(backend, ModelNotFound("gone"))
            await asyncio.sleep(0.1)
        assert gaps(backend.asked_at) == pytest.approx([20, *[POKE_REST_S] * 4])


@in_virtual_time
async def test_a_failure_during_a_look_is_followed_by_another() -> None:
    backend = ScriptedBackend()
    async with Watching(backend) as watching:
        await asyncio.sleep(20)
        backend.gate.clear()
        watching.fail(backend, Unreachable("refused"))
        await asyncio.sleep(1)
        watching.fail(backend, Unreachable("refused"))
        backend.gate.set()
        await asyncio.sleep(5)
        assert [one - watching.began for one in backend.asked_at] == pytest.approx([0, 20, 23])


# --- load -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval_s", [3.0, 60.0])
@in_virtual_time
async def test_load_is_read_and_kept_fresh(interval_s: float) -> None:
    # With a short interval it was never read.
    backend = ScriptedBackend()
    backend.reported_load = ServerLoad(running=1, waiting=2)
    async with Watching(backend, interval_s=interval_s) as watching:
        await asyncio.sleep(1)
        assert watching.discovery.states[0].load == ServerLoad(running=1, waiting=2)
        backend.reported_load = ServerLoad(running=7)
        await asyncio.sleep(LOAD_EVERY_S)
        assert watching.discovery.states[0].load == ServerLoad(running=7)
        assert len(watching.changed_at) == 1, "load is no change of what is offered"


@in_virtual_time
async def test_load_is_dropped_with_its_server() -> None:
    backend = ScriptedBackend()
    backend.reported_load = ServerLoad(running=1)
    async with Watching(backend) as watching:
        await asyncio.sleep(1)
        backend.reported_health = DOWN
        watching.fail(backend, Unreachable("refused"))
        await watching.next_change()
        assert watching.discovery.states[0].load is None
        asked = backend.load_asked
        await asyncio.sleep(100)
        assert backend.load_asked == asked, "one that is down is not asked"


@pytest.mark.parametrize(
    "failure", [Unreachable("refused"), RuntimeError("a defect"), KeyError("x"), TimeoutError()]
)
@in_virtual_time
async def test_whatever_reading_the_load_raises_does_no_harm(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    # A third party's adapter once took the agent down with it.
    backend = ScriptedBackend("a", model("m"))
    backend.reported_load = failure
    async with Watching(backend) as watching:
        await asyncio.sleep(100)
        assert backend.load_asked >= 10
        assert watching.models() == ["m"]
        assert len(watching.changed_at) == 1
        told = 0 if isinstance(failure, BackendError | TimeoutError) else 1
        assert caplog.messages == ["an adapter failed"] * told


# --- out and back ---------------------------------------------------------------------------------


@in_virtual_time
async def test_a_backend_that_keeps_failing_is_out_at_once_and_tried_later() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with Watching(backend) as watching:
        await asyncio.sleep(20)
        # Its next look would take long: nobody waits for that.
        backend.gate.clear()
        watching.fail(backend, Unreachable("refused"), times=4)
        assert watching.models() == ["m"]
        watching.fail(backend, Unreachable("refused"))
        assert (watching.models(), watching.discovery.routes("m")) == ([], [])
        assert len(watching.changed_at) == 2
        assert "rests for 10 s" in watching.discovery.guard("a").reason
        backend.gate.set()
        assert await watching.next_change() == pytest.approx(20 + REST_S)
        assert watching.models() == ["m"]
        assert len(watching.changed_at) == 3


async def half_open(watching: Watching, backend: ScriptedBackend) -> None:
    watching.fail(backend, Unreachable("refused"), times=5)
    await asyncio.sleep(REST_S)
    assert watching.models() == ["m"]


@in_virtual_time
async def test_after_its_rest_one_success_closes() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with Watching(backend) as watching:
        await half_open(watching, backend)
        number = watching.discovery.job_started("a")
        assert [one.capacity for one in watching.discovery.routes("m")] == [0], "one trial"
        watching.discovery.job_ended("a", number, None, 10)
        assert [one.capacity for one in watching.discovery.routes("m")] == [8]
        watching.fail(backend, Unreachable("refused"), times=4)
        assert watching.models() == ["m"]
        assert len(watching.changed_at) == 3


@in_virtual_time
async def test_after_its_rest_one_failure_opens_for_longer() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with Watching(backend) as watching:
        await half_open(watching, backend)
        watching.fail(backend, Unreachable("refused"))
        assert watching.models() == []
        at = now() - watching.began
        assert await watching.next_change() == pytest.approx(at + 2 * REST_S)
        assert watching.models() == ["m"]


@in_virtual_time
async def test_a_stopped_trial_is_no_answer() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with Watching(backend) as watching:
        await half_open(watching, backend)
        number = watching.discovery.job_started("a")
        watching.discovery.job_stopped("a", number)
        assert [one.capacity for one in watching.discovery.routes("m")] == [8]
        watching.fail(backend, Unreachable("refused"))
        assert watching.models() == [], "it was still half open"


@in_virtual_time
async def test_a_good_health_check_does_not_end_a_rest() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with Watching(backend, interval_s=1.0) as watching:
        watching.fail(backend, Unreachable("refused"), times=5)
        await asyncio.sleep(REST_S - 1)
        assert backend.asked > 5
        assert watching.models() == []


@pytest.mark.parametrize(("told_s", "rest_s"), [(7.0, 7.0), (86_000.0, MAX_TOLD_REST_S)])
@in_virtual_time
async def test_a_server_that_says_when_to_come_back_rests_so_long(
    told_s: float, rest_s: float
) -> None:
    backend = ScriptedBackend("a", model("m"))
    async with Watching(backend) as watching:
        watching.fail(backend, BadStatus(429, b"", ErrorCode.BACKEND_OVERLOADED, told_s))
        assert watching.models() == []
        assert await watching.next_change() == pytest.approx(rest_s)
        watching.succeed(backend)
        assert watching.models() == ["m"]
