"""Models of native servers that fail jobs: checked, withheld and offered again."""

import asyncio
from itertools import pairwise
from typing import ClassVar, Literal

import pytest

from provider_agent.adapters.base import (
    BackendError,
    BackendHealth,
    BackendTimeout,
    BadStatus,
    ServerLoad,
    Transport,
)
from provider_agent.agent.backends.health_check import CHECK_TIMEOUT_S
from provider_agent.protocol.errors import ErrorCode
from tests.kit.discovery_harness import DiscoveryHarness
from tests.kit.scripted_backend import ScriptedBackend, model
from tests.kit.virtual_time import in_virtual_time, now

BROKEN = BadStatus(500, b"", ErrorCode.BACKEND_ERROR)
FAILURES = 5
STALL_S = 20.0


class NativeBackend(ScriptedBackend):
    """A server that generates a token on request, and may report its progress."""

    confirms_failures: ClassVar[bool] = True

    def __init__(self, *names: str, stall_s: float | None = None) -> None:
        super().__init__("a", *(model(name) for name in names or ("m",)))
        self.timeouts = type(self.timeouts)(stall_s=stall_s)
        self.frozen = False

    async def load(self) -> ServerLoad | None:
        await super().load()
        return ServerLoad(progress="same" if self.frozen else str(now()))


# --- failing jobs ---------------------------------------------------------------------------------


@in_virtual_time
async def test_requests_that_fail_on_a_working_model_do_not_stop_it() -> None:
    backend = NativeBackend()
    async with DiscoveryHarness(backend) as harness:
        await asyncio.sleep(20)
        for _ in range(10):
            harness.fail(backend, BROKEN, times=FAILURES)
            assert harness.capacities() == [8]
            await asyncio.sleep(10)
        assert backend.generated == ["m"] * 10
        assert len(harness.changed_at) == 1, "the offers never change"


@pytest.mark.parametrize("failure", [BROKEN, Transport("reset"), BackendTimeout("first byte")])
@in_virtual_time
async def test_model_that_generates_no_token_is_withheld_until_it_does(
    failure: BackendError,
) -> None:
    backend = NativeBackend("m", "n")
    async with DiscoveryHarness(backend) as harness:
        await asyncio.sleep(20)
        backend.generation = BROKEN
        harness.fail(backend, failure, times=FAILURES)
        await harness.next_change()
        assert harness.models() == ["n"]
        (withheld,) = harness.discovery.states[0].withheld
        assert "fails to generate a token" in withheld.withheld
        await asyncio.sleep(30)
        backend.generation = None
        await harness.next_change()
        assert harness.models() == ["m", "n"]
        assert set(backend.generated) == {"m"}


@in_virtual_time
async def test_checks_back_off_while_a_model_fails_to_generate_a_token() -> None:
    backend = NativeBackend("m", "n")
    async with DiscoveryHarness(backend, jitter=1.0) as harness:
        await asyncio.sleep(20)
        backend.generation = BROKEN
        harness.fail(backend, BROKEN, times=FAILURES)
        await asyncio.sleep(30)
        assert harness.discovery.states[0].health.reachable
        times = backend.checked_at[1:]
        assert [later - earlier for earlier, later in pairwise(times)] == pytest.approx([2, 4, 8])


@in_virtual_time
async def test_backend_whose_every_model_fails_is_down() -> None:
    backend = NativeBackend()
    async with DiscoveryHarness(backend) as harness:
        await asyncio.sleep(20)
        backend.generation = BROKEN
        harness.fail(backend, BROKEN, times=FAILURES)
        await harness.next_change()
        health = harness.discovery.states[0].health
        assert not health.reachable
        assert "fails to generate a token" in (health.last_error or "")


BUSY = BadStatus(503, b"", ErrorCode.BACKEND_OVERLOADED)


@pytest.mark.parametrize(("generation", "offered"), [("hang", ["m"]), (BUSY, ["m"]), (BROKEN, [])])
@in_virtual_time
async def test_model_is_withheld_after_an_error_but_not_after_a_timeout_or_busy_answer(
    generation: BackendError | Literal["hang"], offered: list[str]
) -> None:
    backend = NativeBackend()
    async with DiscoveryHarness(backend) as harness:
        await asyncio.sleep(20)
        backend.generation = generation
        harness.fail(backend, BROKEN, times=FAILURES)
        await asyncio.sleep(30)
        assert harness.models() == offered


@in_virtual_time
async def test_failure_count_starts_at_zero_after_the_server_was_down() -> None:
    backend = NativeBackend()
    async with DiscoveryHarness(backend) as harness:
        await asyncio.sleep(20)
        harness.fail(backend, BROKEN, times=FAILURES - 1)
        backend.reported_health = BackendHealth(False, last_error="connection refused")
        await asyncio.sleep(60)
        backend.reported_health = BackendHealth(True, 1.0)
        await harness.next_change()
        harness.fail(backend, BROKEN, times=FAILURES - 1)
        await asyncio.sleep(10)
        assert backend.generated == []


# --- stalled servers ------------------------------------------------------------------------------


@in_virtual_time
async def test_server_without_progress_while_jobs_run_is_down_until_it_generates_a_token() -> None:
    backend = NativeBackend("m", "n", stall_s=STALL_S)
    async with DiscoveryHarness(backend) as harness:
        await asyncio.sleep(100)
        harness.start("a")
        await asyncio.sleep(100)
        assert harness.models() == ["m", "n"]
        backend.frozen, backend.generation = True, "hang"
        frozen_at_s = now() - harness.began
        changed_at_s = await harness.next_change()
        assert STALL_S <= changed_at_s - frozen_at_s <= STALL_S * 1.5
        assert harness.models() == []
        reason = harness.discovery.states[0].health.last_error or ""
        assert "processed no token for 20 s" in reason
        (error,) = backend.ended
        assert isinstance(error, BackendTimeout)
        await asyncio.sleep(200)  # the health check passes, but no token is generated
        assert (harness.models(), len(backend.ended)) == ([], 1)
        assert harness.discovery.states[0].health.last_error == reason, "the first reason is kept"
        backend.frozen, backend.generation = False, None
        await harness.next_change()
        assert harness.models() == ["m", "n"]


@pytest.mark.parametrize(
    "condition", ["no job runs", "output arrives", "no stall time is set", "no job waits"]
)
@in_virtual_time
async def test_server_without_progress_is_not_stalled_if(condition: str) -> None:
    backend = NativeBackend(stall_s=None if condition == "no stall time is set" else STALL_S)
    async with DiscoveryHarness(backend) as harness:
        backend.frozen = True
        if condition != "no job runs":
            harness.start("a")
        for _ in range(30):
            backend.waiting_since_s = now() if condition == "output arrives" else 0.0
            if condition == "no job waits":
                backend.waiting_since_s = None
            await asyncio.sleep(10)
        assert harness.models() == ["m"]


@in_virtual_time
async def test_job_after_a_long_idle_time_has_the_whole_stall_time() -> None:
    backend = NativeBackend(stall_s=STALL_S)
    async with DiscoveryHarness(backend) as harness:
        backend.frozen = True
        await asyncio.sleep(1000)
        harness.start("a")
        await asyncio.sleep(STALL_S - 1)
        assert harness.models() == ["m"]


@in_virtual_time
async def test_server_that_answers_nothing_while_jobs_run_is_stalled() -> None:
    backend = NativeBackend(stall_s=STALL_S)
    async with DiscoveryHarness(backend) as harness:
        await asyncio.sleep(50)
        harness.start("a")
        backend.gate.clear()  # the next health check hangs, as for a stopped process
        backend.reported_load = Transport("no answer")
        await asyncio.sleep(STALL_S + CHECK_TIMEOUT_S)
        assert harness.models() == []
