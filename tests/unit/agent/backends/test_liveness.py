"""Liveness checks: when idle backends are asked, and what their answers change."""

import asyncio
from itertools import pairwise
from typing import Literal

import pytest

from provider_agent.adapters.base import BackendHealth, BackendTimeout, Unreachable
from provider_agent.agent.backends.liveness import (
    JITTER,
    LIVENESS_INTERVAL_S,
    LIVENESS_TIMEOUT_S,
)
from tests.kit.discovery_harness import DiscoveryHarness
from tests.kit.scripted_backend import ScriptedBackend, model
from tests.kit.virtual_time import in_virtual_time, now

REFUSED = BackendHealth(False, None, "connection refused", loading=True)
TIMED_OUT = BackendHealth(False, None, "no response", timed_out=True)
UP = BackendHealth(True, 1.0)


def live_backend(backend_id: str = "a") -> ScriptedBackend:
    backend = ScriptedBackend(backend_id, model("m"))
    backend.reported_liveness = "alive"
    return backend


@pytest.mark.parametrize("jitter", [0.0, 0.5, 1.0])
@in_virtual_time
async def test_idle_backend_is_asked_every_interval_with_jitter(jitter: float) -> None:
    backend = live_backend()
    async with DiscoveryHarness(backend, jitter=jitter):
        await asyncio.sleep(40)
        gaps = [later - earlier for earlier, later in pairwise(backend.liveness_checked_at)]
        assert gaps
        assert gaps == pytest.approx([LIVENESS_INTERVAL_S * (1 - JITTER * jitter)] * len(gaps))
        assert backend.checks == 1, "a liveness check replaces no health check, and causes none"


@pytest.mark.parametrize("how", ["no such check", "interval 0"])
@in_virtual_time
async def test_no_liveness_checks_with(how: str) -> None:
    backend = live_backend()
    if how == "no such check":  # as of services that the operator pays for
        backend.reported_liveness = None
    interval_s = 0.0 if how == "interval 0" else LIVENESS_INTERVAL_S
    async with DiscoveryHarness(backend, liveness_interval_s=interval_s):
        await asyncio.sleep(300)
        assert backend.liveness_checked_at == []


@pytest.mark.parametrize("failure", [Unreachable("refused"), "hang"])
@in_virtual_time
async def test_lost_idle_backend_loses_its_offers_within_two_intervals(
    failure: Unreachable | Literal["hang"], caplog: pytest.LogCaptureFixture
) -> None:
    # Without liveness checks, this took up to 60 s, and 10 s more for a server that hangs.
    backend = live_backend()
    async with DiscoveryHarness(backend, jitter=0.0) as harness:
        await asyncio.sleep(11)
        caplog.clear()
        backend.reported_liveness = failure
        backend.reported_health = TIMED_OUT if failure == "hang" else REFUSED
        lost_at = now() - harness.began
        assert await harness.next_change() - lost_at <= 2 * LIVENESS_INTERVAL_S
        assert (harness.models(), harness.capacities()) == ([], [])
        before = len(caplog.messages)
        assert caplog.messages.count("backend is down") == 1
        await asyncio.sleep(0.1)
        assert backend.checks == 2, "a health check follows at once"
        await asyncio.sleep(100)
        assert len(caplog.messages) - before <= 1, "the health check may give another reason"


@in_virtual_time
async def test_returned_backend_is_offered_within_one_interval() -> None:
    # A server that had not answered was checked again only after up to 60 s.
    backend = live_backend()
    async with DiscoveryHarness(backend) as harness:
        backend.reported_liveness = "hang"
        backend.reported_health = TIMED_OUT
        await asyncio.sleep(500)
        assert harness.models() == []
        backend.reported_liveness, backend.reported_health = "alive", UP
        returned_at = now() - harness.began
        # The check that hangs at this moment ends after its timeout.
        limit_s = LIVENESS_TIMEOUT_S + LIVENESS_INTERVAL_S
        assert await harness.next_change() - returned_at <= limit_s
        assert harness.models() == ["m"]


@in_virtual_time
async def test_answer_of_a_backend_that_is_down_for_another_reason_causes_no_check() -> None:
    backend = live_backend()
    backend.reported_health = BackendHealth(False, None, "the server refused the key")
    async with DiscoveryHarness(backend):
        await asyncio.sleep(300)
        assert len(backend.liveness_checked_at) > 50
        assert backend.checks < 15, "the checks still back off"


@in_virtual_time
async def test_backend_is_not_asked_while_jobs_run() -> None:
    backend = live_backend()
    async with DiscoveryHarness(backend) as harness:
        await asyncio.sleep(1)
        attempt = harness.start("a")
        backend.reported_liveness = Unreachable("refused")
        await asyncio.sleep(50)
        assert (backend.liveness_checked_at, harness.models()) == ([], ["m"])
        attempt.succeeded(10)
        await asyncio.sleep(LIVENESS_INTERVAL_S)
        assert len(backend.liveness_checked_at) == 1


@in_virtual_time
async def test_failure_is_ignored_if_a_job_started_during_the_check() -> None:
    backend = live_backend()
    async with DiscoveryHarness(backend, jitter=0.0) as harness:
        await asyncio.sleep(1)
        backend.reported_liveness = "hang"
        await asyncio.sleep(LIVENESS_INTERVAL_S)
        assert len(backend.liveness_checked_at) == 1
        harness.start("a")
        await asyncio.sleep(LIVENESS_TIMEOUT_S + 1)
        assert harness.models() == ["m"]


@in_virtual_time
async def test_false_alarm_is_corrected_by_the_health_check() -> None:
    backend = live_backend()
    async with DiscoveryHarness(backend) as harness:
        await asyncio.sleep(1)
        backend.reported_liveness = BackendTimeout("slow")
        backend.gate.clear()
        await harness.next_change()
        assert harness.models() == []
        backend.gate.set()
        await harness.next_change()
        assert harness.models() == ["m"]


@in_virtual_time
async def test_defect_of_an_adapter_is_logged_once_and_ends_its_liveness_checks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = live_backend()
    backend.reported_liveness = RuntimeError("a defect")
    async with DiscoveryHarness(backend) as harness:
        await asyncio.sleep(200)
        assert caplog.messages.count("adapter failed") == 1
        assert len(backend.liveness_checked_at) == 1
        assert harness.models() == ["m"]


@in_virtual_time
async def test_new_interval_takes_effect_at_once() -> None:
    backend = live_backend()
    async with DiscoveryHarness(backend, liveness_interval_s=3600, jitter=0.0) as harness:
        await asyncio.sleep(100)
        harness.discovery.set_intervals(60, 1)
        await asyncio.sleep(1.5)
        assert [at - harness.began for at in backend.liveness_checked_at] == [100, 101]
        harness.discovery.set_intervals(60, 0)
        await asyncio.sleep(100)
        assert len(backend.liveness_checked_at) == 2


@in_virtual_time
async def test_removed_backend_is_not_asked_any_more() -> None:
    backend = live_backend()
    async with DiscoveryHarness(backend) as harness:
        attempt = harness.start("a")
        harness.replace()
        await asyncio.sleep(0)
        attempt.succeeded(1)
        await asyncio.sleep(60)
        assert (backend.liveness_checked_at, backend.closed) == ([], True)
