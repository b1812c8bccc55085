"""When backends are checked, and what opens and closes their breakers."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest

from provider_agent.adapters.base import (
    BackendError,
    BackendHealth,
    BadRequest,
    BadStatus,
    MissingApiKey,
    ModelNotFound,
    ServerLoad,
    Transport,
    Unreachable,
)
from provider_agent.agent.backends.admission import MAX_SERVER_WAIT_S
from provider_agent.agent.backends.check_times import (
    LOADING_INTERVAL_S,
    MAX_RETRY_S,
    RECHECK_PAUSE_S,
)
from provider_agent.agent.backends.discovery import CHECK_INTERVAL_S
from provider_agent.agent.backends.health_check import ANSWER_S
from provider_agent.agent.backends.load_reader import LOAD_INTERVAL_S
from provider_agent.protocol.errors import ErrorCode
from tests.kit.discovery_harness import DiscoveryHarness
from tests.kit.scripted_backend import ScriptedBackend, model
from tests.kit.virtual_time import in_virtual_time, now

LOADING = BackendHealth(False, None, "the server is loading its model", loading=True)
UP = BackendHealth(True, 1.0)
DOWN = BackendHealth(False, None, "gone")
OPEN_S = 10.0
"""How long the default rule opens a breaker the first time."""


def gaps(times: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


# --- when a backend is checked --------------------------------------------------------------------


@pytest.mark.parametrize("interval_s", [1.0, 7.0, 60.0])
@in_virtual_time
async def test_a_healthy_backend_is_checked_at_once_and_every_interval(interval_s: float) -> None:
    backend = ScriptedBackend()
    async with DiscoveryHarness(backend, interval_s=interval_s) as harness:
        await asyncio.sleep(3.5 * interval_s)
        assert backend.checked_at[0] == harness.began
        assert gaps(backend.checked_at) == pytest.approx([interval_s] * 3)
        assert harness.changed_at == [harness.began]


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
@in_virtual_time
async def test_checks_back_off_while_the_backend_is_down(jitter: float) -> None:
    backend = ScriptedBackend()
    backend.reported_health = DOWN
    async with DiscoveryHarness(backend, jitter=jitter) as harness:
        await asyncio.sleep(300)
        share = 0.5 + 0.5 * jitter
        expected = [share * min(2.0**number, MAX_RETRY_S) for number in range(1, 9)]
        assert gaps(backend.checked_at)[:8] == pytest.approx(expected)
        assert harness.changed_at == []


@in_virtual_time
async def test_the_backoff_starts_again_after_the_backend_was_up() -> None:
    backend = ScriptedBackend()
    backend.reported_health = DOWN
    async with DiscoveryHarness(backend) as harness:
        await asyncio.sleep(200)
        backend.reported_health = UP
        await harness.changed.wait()
        backend.reported_health = DOWN
        await harness.next_change()
        before = len(backend.checked_at)
        await asyncio.sleep(7)
        assert gaps(backend.checked_at[before - 1 :]) == pytest.approx([2.0, 4.0])


@in_virtual_time
async def test_the_backoff_starts_after_the_backend_has_loaded() -> None:
    # Checks of a loading server counted as failures, so the first wait after them was up to 60 s.
    backend = ScriptedBackend()
    backend.reported_health = LOADING
    async with DiscoveryHarness(backend):
        await asyncio.sleep(100 * LOADING_INTERVAL_S - 1)
        backend.reported_health = DOWN
        before = len(backend.checked_at)
        await asyncio.sleep(8)
        assert gaps(backend.checked_at[before:]) == pytest.approx([2.0, 4.0])


@in_virtual_time
async def test_a_loading_backend_is_checked_often_until_it_is_up() -> None:
    backend = ScriptedBackend("a", model("m"))
    backend.reported_health = LOADING
    async with DiscoveryHarness(backend) as harness:
        await asyncio.sleep(100 * LOADING_INTERVAL_S - 1)
        assert gaps(backend.checked_at) == pytest.approx([LOADING_INTERVAL_S] * 99)
        assert harness.changed_at == []
        backend.reported_health = UP
        assert await harness.next_change() == pytest.approx(100 * LOADING_INTERVAL_S)
        assert harness.models() == ["m"]
        checks_before = backend.checks
        await asyncio.sleep(CHECK_INTERVAL_S - 1)
        assert backend.checks == checks_before, "a healthy backend is checked once per interval"


@in_virtual_time
async def test_a_hanging_backend_does_not_delay_checks_of_others() -> None:
    # In an earlier version, no backend was monitored before all first checks had ended.
    hanging, loading = ScriptedBackend("hanging"), ScriptedBackend("b", model("m"))
    hanging.gate.clear()
    loading.reported_health = LOADING
    async with DiscoveryHarness(hanging, loading) as harness:
        loading.reported_health = UP
        await harness.changed.wait()
        assert now() - harness.began < 10
        assert harness.models() == ["m"]


@in_virtual_time
async def test_waiting_for_the_first_checks_ends_with_them_or_times_out() -> None:
    backend = ScriptedBackend()
    backend.gate.clear()
    async with DiscoveryHarness(backend) as harness:
        # The harness waits for the first checks for at most 5 s.
        assert now() - harness.began == pytest.approx(5.0)
        backend.gate.set()
        await harness.discovery.wait_for_first_checks(5.0)
        assert now() - harness.began == pytest.approx(5.0)
        assert harness.models() == ["m"]


@pytest.mark.parametrize(
    ("failure", "checked"),
    [
        (Unreachable("refused"), True),
        (ModelNotFound("gone"), True),
        (MissingApiKey("refused key"), True),
        (BadStatus(500, b"", ErrorCode.BACKEND_ERROR), True),
        (BadStatus(503, b"", ErrorCode.BACKEND_OVERLOADED), False),
        (BadRequest("no object"), False),
        (BadStatus(400, b"", ErrorCode.CONTEXT_LENGTH_EXCEEDED), False),
    ],
)
@in_virtual_time
async def test_which_failures_trigger_a_check_at_once(failure: BackendError, checked: bool) -> None:
    backend, other = ScriptedBackend("a", model("m")), ScriptedBackend("b", model("m"))
    async with DiscoveryHarness(backend, other) as harness:
        await asyncio.sleep(20)
        backend.reported_health = DOWN
        harness.fail(backend, failure)
        await asyncio.sleep(1)
        assert [one - harness.began for one in backend.checked_at[1:]] == ([20] if checked else [])
        assert other.checks == 1
        assert harness.models() == (["m"] if checked else ["m", "m"])


@in_virtual_time
async def test_checks_triggered_by_failures_have_a_pause_between_them() -> None:
    # Without the pause, every job that fails with 404 although its model is in the list would cause
    # another request for the whole list.
    backend = ScriptedBackend()
    async with DiscoveryHarness(backend) as harness:
        await asyncio.sleep(20)
        for _ in range(100):
            harness.fail(backend, ModelNotFound("gone"))
            await asyncio.sleep(0.1)
        assert gaps(backend.checked_at) == pytest.approx([20, *[RECHECK_PAUSE_S] * 4])


@in_virtual_time
async def test_a_failure_during_a_check_triggers_another_check() -> None:
    backend = ScriptedBackend()
    async with DiscoveryHarness(backend) as harness:
        await asyncio.sleep(20)
        backend.gate.clear()
        harness.fail(backend, ModelNotFound("gone"))
        await asyncio.sleep(1)
        harness.fail(backend, ModelNotFound("gone"))
        backend.gate.set()
        await asyncio.sleep(5)
        assert [one - harness.began for one in backend.checked_at] == pytest.approx([0, 20, 23])


@pytest.mark.parametrize("how", ["refused", "no answer after a lost connection"])
@in_virtual_time
async def test_a_backend_that_refuses_a_connection_gets_no_jobs_until_a_check_passes(
    how: str,
) -> None:
    # In an earlier version, jobs went to servers that had stopped until the pause between checks
    # had passed, while another server was idle.
    backend, other = ScriptedBackend("a", model("m")), ScriptedBackend("b", model("m"))
    async with DiscoveryHarness(backend, other) as harness:
        await asyncio.sleep(20)
        for _ in range(2):  # the second time, the last check has just ended
            if how == "refused":
                backend.gate.clear()
                harness.fail(backend, Unreachable("refused"))
            else:
                backend.reported_health = DOWN
                assert not await harness.discovery.answers("a")
                backend.reported_health = UP
                backend.gate.clear()
            assert harness.capacities() == [0, 8]
            await asyncio.sleep(1)
            assert harness.capacities() == [0, 8]
            began = now()
            backend.gate.set()
            await asyncio.sleep(0.001)
            assert harness.capacities() == [8, 8]
            assert backend.checked_at[-1] == began - 1, "the check does not wait for the pause"
        assert harness.changes == 2, "only the first check of each changed the offer"
        backend.reported_health = DOWN
        harness.fail(backend, Unreachable("refused"))
        await asyncio.sleep(0.001)
        assert harness.capacities() == [8]


# --- load -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("interval_s", [3.0, 60.0])
@in_virtual_time
async def test_load_is_read_regularly(interval_s: float) -> None:
    # In an earlier version, the load was never read if the check interval was short.
    backend = ScriptedBackend()
    backend.reported_load = ServerLoad(running=1, waiting=2)
    async with DiscoveryHarness(backend, interval_s=interval_s) as harness:
        await asyncio.sleep(1)
        assert harness.discovery.states[0].load == ServerLoad(running=1, waiting=2)
        assert backend.load_calls == backend.checks, "the load is read once per check"
        backend.reported_load = ServerLoad(running=7)
        await asyncio.sleep(LOAD_INTERVAL_S)
        assert harness.discovery.states[0].load == ServerLoad(running=7)
        assert len(harness.changed_at) == 1, "load is not part of the offer"


@in_virtual_time
async def test_the_load_of_a_backend_that_is_down_is_unknown() -> None:
    backend = ScriptedBackend()
    backend.reported_load = ServerLoad(running=1)
    async with DiscoveryHarness(backend) as harness:
        await asyncio.sleep(1)
        backend.reported_health = DOWN
        harness.fail(backend, Unreachable("refused"))
        await harness.next_change()
        assert harness.discovery.states[0].load is None
        calls_before = backend.load_calls
        await asyncio.sleep(100)
        assert backend.load_calls == calls_before, "no load calls while it is down"


@pytest.mark.parametrize(
    "failure", [Unreachable("refused"), RuntimeError("a defect"), KeyError("x"), TimeoutError()]
)
@in_virtual_time
async def test_errors_of_reading_the_load_do_not_affect_the_backend(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    # In an earlier version, such an error of a third party's adapter ended the agent.
    backend = ScriptedBackend("a", model("m"))
    backend.reported_load = failure
    async with DiscoveryHarness(backend) as harness:
        await asyncio.sleep(100)
        assert backend.load_calls >= 10
        assert harness.models() == ["m"]
        assert len(harness.changed_at) == 1
        logged = 0 if isinstance(failure, BackendError | TimeoutError) else 1
        assert caplog.messages == ["adapter failed"] * logged


# --- the breaker ----------------------------------------------------------------------------------


@in_virtual_time
async def test_an_opened_breaker_removes_the_backend_at_once_and_readmits_it_later() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with DiscoveryHarness(backend) as harness:
        await asyncio.sleep(20)
        # The next check hangs: removing the backend must not wait for it.
        backend.gate.clear()
        harness.fail(backend, Unreachable("refused"), times=4)
        assert harness.models() == ["m"]
        harness.fail(backend, Unreachable("refused"))
        assert (harness.models(), harness.discovery.routes("m")) == ([], [])
        assert len(harness.changed_at) == 2
        assert "no jobs for 10 s" in harness.monitor("a").admission.reason
        backend.gate.set()
        assert await harness.next_change() == pytest.approx(20 + OPEN_S)
        assert harness.models() == ["m"]
        assert len(harness.changed_at) == 3


async def make_half_open(harness: DiscoveryHarness, backend: ScriptedBackend) -> None:
    """Open the breaker with failures, and wait until it is half open."""
    harness.fail(backend, Unreachable("refused"), times=5)
    await asyncio.sleep(OPEN_S)
    assert harness.models() == ["m"]


@in_virtual_time
async def test_a_successful_trial_closes_the_breaker() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with DiscoveryHarness(backend) as harness:
        await make_half_open(harness, backend)
        trial = harness.start("a")
        assert harness.capacities() == [0], "a half-open breaker admits one trial"
        trial.succeeded(10)
        assert harness.capacities() == [8]
        harness.fail(backend, Unreachable("refused"), times=4)
        assert harness.models() == ["m"]
        assert len(harness.changed_at) == 3


@in_virtual_time
async def test_a_failed_trial_opens_the_breaker_for_longer() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with DiscoveryHarness(backend) as harness:
        await make_half_open(harness, backend)
        harness.fail(backend, Unreachable("refused"))
        assert harness.models() == []
        failed_at_s = now() - harness.began
        assert await harness.next_change() == pytest.approx(failed_at_s + 2 * OPEN_S)
        assert harness.models() == ["m"]


@in_virtual_time
async def test_an_abandoned_trial_leaves_the_breaker_half_open() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with DiscoveryHarness(backend) as harness:
        await make_half_open(harness, backend)
        harness.start("a").abandoned()
        assert harness.capacities() == [8]
        harness.fail(backend, Unreachable("refused"))
        assert harness.models() == [], "the breaker was still half open"


@in_virtual_time
async def test_a_healthy_check_does_not_close_the_breaker() -> None:
    backend = ScriptedBackend("a", model("m"))
    async with DiscoveryHarness(backend, interval_s=1.0) as harness:
        harness.fail(backend, Unreachable("refused"), times=5)
        await asyncio.sleep(OPEN_S - 1)
        assert backend.checks > 5
        assert harness.models() == []


@pytest.mark.parametrize(("asked_s", "open_s"), [(7.0, 7.0), (86_000.0, MAX_SERVER_WAIT_S)])
@in_virtual_time
async def test_retry_after_opens_the_breaker_for_a_bounded_time(
    asked_s: float, open_s: float
) -> None:
    backend = ScriptedBackend("a", model("m"))
    async with DiscoveryHarness(backend) as harness:
        harness.fail(backend, BadStatus(429, b"", ErrorCode.BACKEND_OVERLOADED, asked_s))
        assert harness.models() == []
        assert await harness.next_change() == pytest.approx(open_s)
        harness.start("a").succeeded(10)
        assert harness.models() == ["m"]


@in_virtual_time
async def test_concurrent_checks_before_failover_are_one_request() -> None:
    backend = ScriptedBackend()
    async with DiscoveryHarness(backend) as harness:
        before = backend.checks
        backend.gate.clear()
        calls = [asyncio.create_task(harness.discovery.answers(backend.id)) for _ in range(8)]
        await asyncio.sleep(ANSWER_S / 2)
        calls[0].cancel()
        backend.gate.set()

        assert await asyncio.gather(*calls[1:]) == [True] * 7
        assert backend.checks == before + 1


@in_virtual_time
async def test_backend_that_hangs_or_fails_does_not_answer() -> None:
    backend = ScriptedBackend()
    async with DiscoveryHarness(backend) as harness:
        backend.gate.clear()
        assert not await harness.discovery.answers(backend.id)
        backend.gate.set()
        for failure in (Transport("reset"), RuntimeError("a defect")):
            backend.reported_health = failure
            assert not await harness.discovery.answers(backend.id)


@in_virtual_time
async def test_backend_that_is_no_longer_in_use_counts_as_answering() -> None:
    async with DiscoveryHarness(ScriptedBackend()) as harness:
        assert await harness.discovery.answers("a backend that was removed")
