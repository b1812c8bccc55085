"""How the agent handles a coordinator's hostile handshakes, extreme numbers and `Drain` floods."""

import asyncio
import logging

import pytest
from msgspec.structs import replace

from provider_agent.agent.jobs.outbox import MAX_OWN_WINDOW_BYTES
from provider_agent.agent.link.backoff import MAX_RETRY_AFTER_S
from provider_agent.agent.link.resumption import MAX_RESUME_S
from provider_agent.protocol.frames import Drain, Heartbeat, Rejected
from provider_agent.protocol.limits import HANDSHAKE_TIMEOUT_S
from tests.kit.hostile_handshakes import HANDSHAKES, HUGE_DURATION_MS, Handshake, assert_recovers
from tests.kit.hostile_harness import HostileHarness
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.scripted_coordinator import ScriptedCoordinator, welcome
from tests.kit.virtual_time import in_virtual_time, now


@pytest.mark.parametrize("handshake", HANDSHAKES, ids=lambda handshake: handshake.name)
@in_virtual_time
async def test_agent_reacts_to_handshake_as_documented(handshake: Handshake) -> None:
    backend = ScriptedBackend()
    async with ScriptedCoordinator(lambda _hello: None) as coordinator:
        coordinator.sends_challenge = False
        async with RunningAgent(coordinator, backend) as agent:
            peer = await coordinator.next_connection()
            await handshake.perform(peer)
            if handshake.close_code is not None:
                await peer.closed.wait()
                assert peer.socket.close_code == handshake.close_code
            else:
                await peer.settle()
                peer.cut()
            await assert_recovers(HostileHarness(coordinator, agent, backend, peer))


# --- extreme numbers -----------------------------------------------------------------


@in_virtual_time
async def test_window_is_limited_to_16_mib() -> None:
    backend = ScriptedBackend()
    answer = replace(welcome(), window_bytes=2**53 - 1)
    async with (
        ScriptedCoordinator(lambda _hello: answer) as coordinator,
        RunningAgent(coordinator, backend) as agent,
    ):
        peer = await agent.connected()
        peer.acknowledges = False
        await peer.send_jobs(new_job())
        run = await backend.next_run()
        run.start()
        sent = 0
        while not run.paused:
            run.send(bytes(2**20))
            sent += 2**20
        assert sent == MAX_OWN_WINDOW_BYTES


@in_virtual_time
async def test_heartbeat_interval_of_100_ms_is_honored() -> None:
    answer = replace(welcome(), heartbeat_ms=100)
    async with (
        ScriptedCoordinator(lambda _hello: answer) as coordinator,
        RunningAgent(coordinator, ScriptedBackend()) as agent,
    ):
        peer = await agent.connected()
        await asyncio.sleep(5)
        beats = [frame for frame in peer.frames if isinstance(frame, Heartbeat)]
        assert 40 <= len(beats) <= 60


@in_virtual_time
async def test_detached_session_is_kept_for_ten_minutes_at_most() -> None:
    backend = ScriptedBackend()
    answer = replace(welcome(), resume_ms=HUGE_DURATION_MS)
    async with (
        ScriptedCoordinator(lambda _hello: answer) as coordinator,
        RunningAgent(coordinator, backend) as agent,
    ):
        peer = await agent.connected()
        await peer.send_jobs(new_job(deadline_ms=86_400_000))
        run = await backend.next_run()
        coordinator.sends_challenge = False
        coordinator.answer = lambda _hello: None
        lost_at = now()
        peer.cut()
        await run.cancelled.wait()
        assert MAX_RESUME_S <= now() - lost_at <= MAX_RESUME_S + HANDSHAKE_TIMEOUT_S + 1
        await asyncio.sleep(1)
        assert agent.service.jobs.in_flight == 0


@pytest.mark.parametrize("way", ["Rejected", "Drain", "Retry-After"])
@in_virtual_time
async def test_wait_of_years_is_limited_to_one_hour_plus_jitter(way: str) -> None:
    async with ScriptedCoordinator() as coordinator:
        if way == "Rejected":
            coordinator.answer = lambda _hello: Rejected("full", "later", HUGE_DURATION_MS)
        if way == "Retry-After":
            coordinator.refusals.append((503, {"Retry-After": "99999999999999999999999"}))
        # The agent has no backend: hours of health checks would dominate the test's real time.
        async with RunningAgent(coordinator, jitter=0.99) as agent:
            began = now()
            if way == "Drain":
                await (await agent.connected()).send(Drain("later", HUGE_DURATION_MS))
            elif way == "Rejected":
                await coordinator.next_connection()
                coordinator.answer = lambda _hello: welcome()
            await agent.connected()
            assert MAX_RETRY_AFTER_S <= now() - began <= 2 * MAX_RETRY_AFTER_S + 60


@in_virtual_time
async def test_flood_of_drain_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "provider_agent")
    backend = ScriptedBackend()
    async with (
        ScriptedCoordinator() as coordinator,
        RunningAgent(coordinator, backend) as agent,
    ):
        peer = await agent.connected()
        job = new_job()
        await peer.send_jobs(job)
        run = await backend.next_run()
        for _ in range(3):
            await peer.send(*[Drain("again", 0)] * 1000)
        await peer.settle()
        run.answer(b"to its end")
        await peer.end(job.job_id)
        await peer.closed.wait()
        assert peer.socket.close_code == 1000
        await HostileHarness(coordinator, agent, backend, peer).assert_serves_after_reconnect()
    logged = [record for record in caplog.records if record.message == "coordinator draining"]
    assert len(logged) == 1


ROWS_WITH_OWN_TEST = {
    "`Rejected`, `Drain` or `Retry-After` with a wait of years": (
        test_wait_of_years_is_limited_to_one_hour_plus_jitter
    ),
    "a flood of `Drain`": test_flood_of_drain_is_logged_once,
}
"""Rows of the table of hostile coordinators in docs/protocol.md, each with a test of its own."""
