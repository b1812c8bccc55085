"""Backends that are added, removed and changed while the agent runs."""

import asyncio

import pytest

from provider_agent.adapters.base import BackendHealth, Unreachable
from provider_agent.agent.backends.health_check import CHECK_TIMEOUT_S
from provider_agent.agent.backends.load_reader import LOAD_INTERVAL_S
from tests.kit.discovery_harness import DiscoveryHarness
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.virtual_time import in_virtual_time, now


@in_virtual_time
async def test_a_new_backend_is_checked_at_once_and_served() -> None:
    first, second = ScriptedBackend("a"), ScriptedBackend("b")
    harness = DiscoveryHarness(first)
    async with harness:
        harness.replace(first, second)
        began = now()
        await asyncio.sleep(1)
        assert second.checked_at == [began]
        assert harness.routes() == [("a", 0), ("b", 1)]
        await asyncio.sleep(200)
        assert second.checks == 4


@in_virtual_time
async def test_a_backend_added_to_an_agent_without_backends_is_served() -> None:
    harness = DiscoveryHarness()
    async with harness:
        harness.replace(ScriptedBackend("a"))
        await asyncio.sleep(1)
        assert harness.routes() == [("a", 0)]


@in_virtual_time
async def test_the_order_of_the_configuration_is_the_order_of_preference() -> None:
    first, second = ScriptedBackend("a"), ScriptedBackend("b")
    harness = DiscoveryHarness(first, second)
    async with harness:
        harness.replace(second, first)
        assert harness.routes() == [("b", 0), ("a", 1)]
        assert [state.backend.id for state in harness.discovery.states] == ["b", "a"]
        assert [one.backend.id for one in harness.discovery.served_models()] == ["b", "a"]


@in_virtual_time
async def test_an_unchanged_backend_keeps_its_health_and_its_breaker() -> None:
    kept, failing = ScriptedBackend("kept"), ScriptedBackend("failing")
    harness = DiscoveryHarness(kept, failing)
    async with harness:
        harness.fail(failing, Unreachable("refused"), times=5)
        checks_before = kept.checks
        harness.replace(kept, failing, ScriptedBackend("new"))
        assert harness.routes() == [("kept", 0)]
        assert harness.monitor("failing").admission.is_open("m")
        await asyncio.sleep(1)
        assert kept.checks == checks_before
        assert harness.routes() == [("kept", 0), ("new", 2)]


@in_virtual_time
async def test_a_removed_backend_is_neither_routed_to_nor_checked_and_is_closed() -> None:
    first, second = ScriptedBackend("a"), ScriptedBackend("b")
    harness = DiscoveryHarness(first, second)
    async with harness:
        await asyncio.sleep(1)
        harness.replace(second)
        assert harness.routes() == [("b", 0)]
        assert harness.changes == 3
        calls_before = first.checks, first.load_calls
        await asyncio.sleep(300)
        assert first.closed
        assert (first.checks, first.load_calls) == calls_before
        assert not second.closed
        assert harness.changes == 3


@in_virtual_time
async def test_a_removed_backend_is_closed_when_its_last_job_has_ended() -> None:
    backend = ScriptedBackend("a")
    harness = DiscoveryHarness(backend)
    async with harness:
        attempts = [harness.start("a") for _ in range(3)]
        harness.replace()
        await asyncio.sleep(600)
        assert (backend.closed, harness.discovery.busy_ids) == (False, frozenset({"a"}))
        attempts[0].succeeded(10)
        attempts[1].failed(Unreachable("refused"))
        await asyncio.sleep(60)
        assert not backend.closed
        attempts[2].abandoned()
        await asyncio.sleep(1)
        assert (backend.closed, harness.discovery.busy_ids) == (True, frozenset())


@in_virtual_time
async def test_attempts_started_before_a_change_count_only_for_the_old_backend() -> None:
    old, new = ScriptedBackend("a"), ScriptedBackend("a#2")
    harness = DiscoveryHarness(old)
    async with harness:
        retired = harness.monitor("a")
        attempts = [retired.start("m") for _ in range(5)]
        harness.replace(new)
        await asyncio.sleep(1)
        for number, attempt in enumerate(attempts):
            attempt.failed(Unreachable("refused"), request=number)
        assert retired.admission.is_open("m")
        assert harness.routes() == [("a#2", 0)]
        assert [route.in_flight for route in harness.discovery.routes("m")] == [0]


@in_virtual_time
async def test_an_id_can_be_reused_after_its_last_job() -> None:
    old, new = ScriptedBackend("a"), ScriptedBackend("a")
    harness = DiscoveryHarness(old)
    async with harness:
        harness.start("a").abandoned()
        harness.replace(new)
        await asyncio.sleep(1)
        assert (old.closed, new.closed) == (True, False)
        assert harness.monitor("a").backend is new
        assert harness.routes() == [("a", 0)]


@in_virtual_time
async def test_a_check_that_ends_after_retirement_is_ignored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = ScriptedBackend("a")
    backend.gate.clear()
    backend.reported_health = BackendHealth(False, None, "gone")
    harness = DiscoveryHarness(backend)
    async with harness:
        harness.replace()
        backend.gate.set()
        await asyncio.sleep(CHECK_TIMEOUT_S + LOAD_INTERVAL_S)
        assert backend.closed
        assert (caplog.messages, harness.changes) == ([], 1)


@in_virtual_time
async def test_the_first_checks_do_not_wait_for_a_removed_backend() -> None:
    hanging, healthy = ScriptedBackend("hanging"), ScriptedBackend("healthy")
    hanging.gate.clear()
    harness = DiscoveryHarness(hanging, healthy)
    async with harness:
        began = now()
        waiting = asyncio.create_task(harness.discovery.wait_for_first_checks(60.0))
        await asyncio.sleep(0)
        harness.replace(healthy)
        await waiting
        assert now() == began


@in_virtual_time
async def test_a_new_interval_causes_a_check_at_once_and_an_equal_one_does_not() -> None:
    backend = ScriptedBackend("a")
    harness = DiscoveryHarness(backend)
    async with harness:
        await asyncio.sleep(5)
        harness.discovery.set_intervals(10.0, 5.0)
        harness.discovery.set_intervals(10.0, 5.0)
        await asyncio.sleep(25)
        assert [at - backend.checked_at[0] for at in backend.checked_at] == [0, 5, 15, 25]


@in_virtual_time
async def test_every_backend_is_closed_once() -> None:
    class CountingBackend(ScriptedBackend):
        closings = 0

        async def close(self) -> None:
            self.closings += 1

    class UnclosableBackend(CountingBackend):
        async def close(self) -> None:
            await super().close()
            raise RuntimeError("a defect")

    backends = [
        UnclosableBackend("broken"),
        CountingBackend("removed"),
        CountingBackend("busy"),
        CountingBackend("idle"),
    ]
    harness = DiscoveryHarness(*backends)
    async with harness:
        harness.start("busy")
        harness.replace(backends[0], backends[3])
        await asyncio.sleep(100)
        assert [one.closings for one in backends] == [0, 1, 0, 0]
    await harness.discovery.close()
    await harness.discovery.close()
    assert [one.closings for one in backends] == [1, 1, 1, 1]


@in_virtual_time
async def test_closed_backends_are_forgotten() -> None:
    harness = DiscoveryHarness()
    async with harness:
        for number in range(10):
            harness.replace(ScriptedBackend(str(number)))
            await asyncio.sleep(1)
        assert harness.discovery._retired == []
        assert len(asyncio.all_tasks()) == 3, "the test, the discovery, and one monitor"
