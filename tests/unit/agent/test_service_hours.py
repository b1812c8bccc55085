"""The agent serves in its hours: outside them it drains, disconnects, and comes back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from msgspec import structs

from provider_agent.agent.availability.hours import RECHECK_S
from provider_agent.agent.availability.schedule import Schedule, Window
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.config import LimitsConfig, ScheduleConfig, WindowConfig
from provider_agent.agent.service import EXIT_OK
from provider_agent.agent.telemetry.status import readiness
from provider_agent.protocol.frames import Capabilities, Draining, Hello, JobResult
from tests.kit.agent_config import agent_config
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend, model
from tests.kit.scripted_coordinator import ScriptedCoordinator
from tests.kit.virtual_time import in_virtual_time, now

HOURS = ScheduleConfig(
    time_zone="Europe/Berlin",
    windows=(WindowConfig(start="05:55", end="06:00"), WindowConfig(start="06:05", end="06:10")),
)
"""Short windows, because virtual time needs real time too: in winter, 04:55 to 05:00 UTC and 05:05
to 05:10 UTC."""


def at(text: str) -> float:
    """Return the POSIX time of a UTC time; Berlin is one hour ahead in winter, two in summer."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@asynccontextmanager
async def agent_at(
    time: str, schedule: ScheduleConfig = HOURS, limits: LimitsConfig | None = None
) -> AsyncIterator[tuple[RunningAgent, ScriptedBackend, ScriptedCoordinator]]:
    """Run an agent with a schedule and one backend from a UTC time on."""
    backend = ScriptedBackend("a", model("m"))
    async with ScriptedCoordinator() as coordinator:
        config = agent_config(coordinator.url, schedule=schedule, limits=limits)
        async with RunningAgent(coordinator, backend, config=config, started_at=at(time)) as agent:
            yield agent, backend, coordinator


@in_virtual_time
async def test_agent_connects_when_its_window_opens() -> None:
    async with agent_at("2026-01-15T04:50") as (agent, *_):
        began = now()
        await asyncio.sleep(60)
        status = agent.service.status()
        assert not status.availability.open
        assert status.availability.opens_at == "2026-01-15T05:55:00+01:00"
        assert readiness(status) == [
            "not serving: outside its schedule until Thu 2026-01-15 05:55 +01:00"
        ]
        await agent.connected()
        assert now() - began == pytest.approx(300)
        status = agent.service.status()
        assert readiness(status) == []
        assert status.availability.schedule_changes_at == "2026-01-15T06:00:00+01:00"


@in_virtual_time
async def test_agent_drains_and_disconnects_when_its_window_closes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    async with agent_at("2026-01-15T04:58") as (agent, backend, _):
        peer = await agent.connected()
        began = now()
        job, late = new_job(deadline_ms=7_200_000), new_job()
        await asyncio.sleep(110)
        await peer.send_jobs(job)
        run = await backend.next_run()
        assert await peer.next(Draining) == Draining(300_000)
        assert now() - began == pytest.approx(120)
        await peer.send_jobs(late)
        assert (await peer.error(late.job_id)).code == "draining"
        await asyncio.sleep(50)
        assert agent.service.status().link == "connected"
        run.answer(b"all of it")
        assert isinstance(await peer.end(job.job_id), JobResult)
        await peer.closed.wait()
        assert peer.socket.close_code == 1000
        assert now() - began < 180
        await asyncio.sleep(1)
        assert agent.service.status().link == "disconnected"
        assert not backend.closed
        # It does not dial until the next window, and serves again in a new session.
        again = await agent.connected()
        assert now() - began == pytest.approx(420, abs=1)
        hello = await again.next(Hello)
        assert hello.session_id is None
        await again.send_jobs(late_again := new_job())
        (await backend.next_run()).answer(b"more")
        assert isinstance(await again.end(late_again.job_id), JobResult)
    assert caplog.messages.count("agent does not serve") == 1
    assert caplog.messages.count("agent serves again") == 1


@in_virtual_time
async def test_jobs_that_exceed_the_drain_time_end_with_draining() -> None:
    limits = LimitsConfig(drain_timeout_s=30.0)
    async with agent_at("2026-01-15T04:59", limits=limits) as (agent, backend, _):
        peer = await agent.connected()
        await peer.send_jobs(job := new_job(deadline_ms=7_200_000))
        await backend.next_run()
        await peer.next(Draining)
        began = now()
        assert (await peer.error(job.job_id)).code == "draining"
        assert now() - began == pytest.approx(30)
        await peer.closed.wait()


@in_virtual_time
async def test_link_that_is_lost_during_the_drain_is_dialed_again() -> None:
    async with agent_at("2026-01-15T04:59") as (agent, backend, coordinator):
        peer = await agent.connected()
        await peer.send_jobs(new_job(deadline_ms=7_200_000))
        run = await backend.next_run()
        await peer.next(Draining)
        peer.socket.transport.abort()
        again = await coordinator.next_connection()
        assert (await again.next(Draining)).deadline_ms <= 300_000
        await run.cancelled.wait()  # this coordinator does not resume the job
        await again.closed.wait()
        await asyncio.sleep(1)
        assert agent.service.status().link == "disconnected"


@in_virtual_time
async def test_agent_that_may_serve_again_during_the_drain_reconnects_after_it() -> None:
    async with agent_at("2026-01-15T04:59") as (agent, backend, coordinator):
        peer = await agent.connected()
        await peer.send_jobs(new_job(deadline_ms=7_200_000))
        run = await backend.next_run()
        await peer.next(Draining)
        agent.service.reload(agent_config(coordinator.url), agent.service.backends)
        await asyncio.sleep(20)
        assert agent.service.status().link == "connected"
        run.answer(b"x")
        await peer.closed.wait()
        again = await agent.connected()
        await again.send_jobs(job := new_job())
        (await backend.next_run()).answer(b"y")
        assert isinstance(await again.end(job.job_id), JobResult)


@in_virtual_time
async def test_stop_outside_the_hours_exits_at_once() -> None:
    async with agent_at("2026-01-15T12:00") as (agent, *_):
        await asyncio.sleep(30)
        began = now()
        agent.service.stop()
        assert await agent.task == EXIT_OK
        assert now() == began


@in_virtual_time
async def test_stop_during_the_drain_waits_for_the_jobs() -> None:
    async with agent_at("2026-01-15T04:59") as (agent, backend, _):
        peer = await agent.connected()
        await peer.send_jobs(job := new_job(deadline_ms=7_200_000))
        run = await backend.next_run()
        await peer.next(Draining)
        await asyncio.sleep(200)
        agent.service.stop()
        assert await peer.next(Draining) == Draining(300_000)
        await asyncio.sleep(200)  # longer than the first drain had left
        run.answer(b"all")
        assert await agent.task == EXIT_OK
        assert isinstance(await peer.end(job.job_id), JobResult)


@in_virtual_time
async def test_reload_changes_the_schedule() -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"))
        async with RunningAgent(coordinator, backend, started_at=at("2026-01-15T12:00")) as agent:
            peer = await agent.connected()
            night = agent_config(coordinator.url, schedule=HOURS)
            result = agent.service.reload(night, agent.service.backends)
            assert result.applied == ("schedule.time_zone", "schedule.windows")
            await peer.closed.wait()
            agent.service.reload(agent_config(coordinator.url), agent.service.backends)
            await agent.connected()


@in_virtual_time
async def test_clock_that_is_set_is_noticed_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    async with agent_at("2026-01-15T12:00") as (agent, *_):
        await asyncio.sleep(60)
        began = now()
        # As after a suspend of ten hours, during which the monotonic clock stood still.
        monkeypatch.setattr(agent.service.hours, "_wall_clock", lambda: at("2026-01-16T04:57"))
        await agent.connected()
        assert now() - began <= RECHECK_S


@in_virtual_time
async def test_window_in_the_hour_that_exists_twice_opens_once() -> None:
    schedule = ScheduleConfig(
        time_zone="Europe/Berlin", windows=(WindowConfig(start="02:57", end="02:59"),)
    )
    async with agent_at("2026-10-25T00:56", schedule=schedule) as (agent, *_):
        peer = await agent.connected()
        await peer.closed.wait()
        await asyncio.sleep(1)
        # Not at 01:57 UTC, when the clocks show 02:57 again.
        opens_at = agent.service.status().availability.opens_at
        assert opens_at == "2026-10-26T02:57:00+01:00"


@in_virtual_time
async def test_window_that_starts_in_the_skipped_hour_opens_when_the_clocks_go_forward() -> None:
    schedule = ScheduleConfig(
        time_zone="Europe/Berlin", windows=(WindowConfig(start="02:30", end="03:02"),)
    )
    async with agent_at("2026-03-29T00:58", schedule=schedule) as (agent, *_):
        began = now()
        peer = await agent.connected()
        assert now() - began == pytest.approx(120, abs=1)
        await peer.closed.wait()
        assert now() - began == pytest.approx(240, abs=1)


# --- one backend ----------------------------------------------------------------------------------


def offered(frame: Capabilities) -> list[str]:
    return [one.model_id for one in frame.models]


SHORT_BREAK = Schedule((Window(frozenset(range(7)), 12 * 60 + 5, 12 * 60),), UTC)
"""Open, except from 12:00 to 12:05 UTC."""


@in_virtual_time
async def test_backend_outside_its_schedule_is_withdrawn_and_its_jobs_finish() -> None:
    async with ScriptedCoordinator() as coordinator:
        first, second = ScriptedBackend("a", model("m")), ScriptedBackend("b", model("n"))
        async with RunningAgent(
            coordinator,
            first,
            second,
            schedules={"b": SHORT_BREAK},
            started_at=at("2026-01-15T11:58"),
        ) as agent:
            peer = await agent.connected()
            assert offered(await peer.next(Capabilities)) == ["m", "n"]
            began = now()
            await asyncio.sleep(110)
            await peer.send_jobs(job := new_job("n", deadline_ms=7_200_000))
            run = await second.next_run()
            assert offered(await peer.next(Capabilities)) == ["m"]
            assert now() - began == pytest.approx(120, abs=1)
            status = agent.service.status()
            assert [one.availability.open for one in status.backends] == [True, False]
            assert status.backends[1].availability.opens_at == "2026-01-15T12:05:00+00:00"
            assert readiness(status) == []
            await peer.send_jobs(late := new_job("n"))
            assert (await peer.error(late.job_id)).code == "model_not_loaded"
            run.answer(b"whole")
            assert isinstance(await peer.end(job.job_id), JobResult)
            assert offered(await peer.next(Capabilities)) == ["m", "n"]
            assert now() - began == pytest.approx(420, abs=1)


@in_virtual_time
async def test_agent_whose_only_backend_is_withdrawn_stays_connected() -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"))
        async with RunningAgent(
            coordinator, backend, schedules={"a": SHORT_BREAK}, started_at=at("2026-01-15T12:01")
        ) as agent:
            peer = await agent.connected()
            assert offered(await peer.next(Capabilities)) == []
            assert readiness(agent.service.status()) == [
                "no serving backend: a: outside its schedule until Thu 2026-01-15 12:05 +00:00"
            ]
            old = agent.service.backends
            same = structs.replace(old, schedules={})
            assert isinstance(same, Backends)
            config = agent_config(coordinator.url)
            assert agent.service.reload(config, same).applied == ("backends",)
            assert offered(await peer.next(Capabilities)) == ["m"]
