import asyncio
import socket

import pytest

from provider_agent.adapters.base import BackendHealth, BackendSettings
from provider_agent.adapters.servers.echo import EchoBackend
from provider_agent.agent.backends.configured import SkippedBackend
from provider_agent.agent.config import CoordinatorConfig, LimitsConfig, OperatorConfig
from provider_agent.agent.service import (
    EXIT_REFUSED,
    EXIT_UNDELIVERED,
    FIRST_CHECKS_S,
    STATUS_DELAY_S,
)
from provider_agent.agent.telemetry.status import readiness
from provider_agent.agent.telemetry.status_server import StatusServerError
from provider_agent.protocol.frames import (
    BackendLoad,
    Capabilities,
    Draining,
    Heartbeat,
    Hello,
    JobResult,
    JobStarted,
    ModelLoad,
    Rejected,
)
from provider_agent.protocol.limits import REPLACED, SUBPROTOCOL
from tests.kit.agent_config import agent_config
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend, model
from tests.kit.scripted_coordinator import ScriptedCoordinator, welcome
from tests.kit.virtual_time import in_virtual_time, now
from tests.kit.wrong_servers import closed_port

# --- connected ------------------------------------------------------------------------------------


@in_virtual_time
async def test_agent_connects_and_advertises_its_models() -> None:
    async with ScriptedCoordinator() as coordinator:
        config = agent_config(coordinator.url, operator=OperatorConfig(display_name="Garage"))
        backend = ScriptedBackend("a", model("m"), max_concurrent=3)
        async with RunningAgent(coordinator, backend, config=config) as agent:
            peer = await agent.connected()
            offered = await peer.next(Capabilities)
            assert [one.model_id for one in offered.models] == ["m"]
            assert offered.models[0].max_concurrent == 3
            assert (offered.revision, offered.limits.max_concurrent) == (1, 8)
            assert offered.metadata == {"display_name": "Garage"}
            assert agent.service.status().link == "connected"
            assert readiness(agent.service.status()) == []


@in_virtual_time
async def test_changed_models_are_advertised() -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"))
        async with RunningAgent(coordinator, backend) as agent:
            peer = await agent.connected()
            await peer.next(Capabilities)
            backend.reported_models = [model("m"), model("n")]
            offered = await peer.next(Capabilities)
            assert [one.model_id for one in offered.models] == ["m", "n"]
            assert offered.revision == 2
            backend.reported_health = BackendHealth(False, None, "gone")
            assert (await peer.next(Capabilities)).models == []
            assert readiness(agent.service.status()) == ["no healthy backend: a: gone"]


@in_virtual_time
async def test_hanging_backend_delays_the_first_dial_by_five_seconds_at_most() -> None:
    async with ScriptedCoordinator() as coordinator:
        hanging, healthy = ScriptedBackend("hanging"), ScriptedBackend("healthy", model("m"))
        hanging.gate.clear()
        began = now()
        async with RunningAgent(coordinator, hanging, healthy) as agent:
            peer = await agent.connected()
            assert now() - began == pytest.approx(FIRST_CHECKS_S)
            assert [one.model_id for one in (await peer.next(Capabilities)).models] == ["m"]


@in_virtual_time
async def test_heartbeats_report_load_and_statistics() -> None:
    async with ScriptedCoordinator(lambda _: welcome(heartbeat_ms=10_000)) as coordinator:
        backend = ScriptedBackend("a", model("m"), max_concurrent=3)
        config = agent_config(coordinator.url, limits=LimitsConfig(max_concurrent=2))
        async with RunningAgent(coordinator, backend, config=config) as agent:
            peer = await agent.connected()
            first = await peer.next(Heartbeat)
            load = BackendLoad("a", True, 0, 3)
            assert first == Heartbeat(0, 0, 2, None, None, None, None, [load])
            began = now()
            jobs = [new_job(), new_job()]
            await peer.send_jobs(*jobs)
            streaming, waiting = await backend.next_run(), await backend.next_run()
            await asyncio.sleep(0.01)
            streaming.start()
            streaming.send(b"x")
            beat = await peer.next(Heartbeat)
            assert now() - began == pytest.approx(10)
            assert (beat.in_flight, beat.queued, beat.capacity) == (2, 1, 2)
            assert beat.backends == [BackendLoad("a", True, 2, 3, models=[ModelLoad("m", "", 2)])]
            streaming.finish(output_tokens=50)
            waiting.fail(RuntimeError("a defect"))
            beat = await peer.next(Heartbeat)
            assert (beat.in_flight, beat.queued, beat.error_rate) == (0, 0, 0.5)
            assert (beat.first_byte_p50_ms, beat.first_byte_p95_ms) == (10.0, 10.0)
            assert beat.tokens_per_second is not None


@in_virtual_time
async def test_a_new_link_uses_its_own_heartbeat_interval() -> None:
    # In an earlier version, the agent kept the previous link's interval of an hour, so the
    # coordinator ended the new link.
    welcomes = iter([welcome(heartbeat_ms=3_600_000), welcome(heartbeat_ms=5_000)])
    async with (
        ScriptedCoordinator(lambda _: next(welcomes)) as coordinator,
        RunningAgent(coordinator, ScriptedBackend()) as agent,
    ):
        peer = await agent.connected()
        await peer.next(Heartbeat)
        await peer.close(1001)
        next_peer = await agent.connected()
        began = now()
        for _ in range(4):
            await next_peer.next(Heartbeat)
        assert now() - began == pytest.approx(15, abs=1)


@in_virtual_time
async def test_job_runs_from_end_to_end() -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = EchoBackend(BackendSettings(kind="echo"))
        async with RunningAgent(coordinator, backend) as agent:
            peer = await agent.connected()
            job = new_job("echo")
            await peer.send_jobs(job)
            end = await peer.end(job.job_id)
            assert isinstance(end, JobResult)
            data = bytes(peer.data[job.job_id])
            assert end.total_bytes == len(data)
            assert data.endswith(b"data: [DONE]\n\n")
            assert (await peer.next(JobStarted)).backend_id == "echo"
            await peer.settle()
            assert "channels=0" in repr(agent.service), "the acknowledged job is forgotten"


@in_virtual_time
async def test_excess_jobs_unknown_models_and_cancelled_jobs_end_with_errors() -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"))
        config = agent_config(coordinator.url, limits=LimitsConfig(max_concurrent=2))
        async with RunningAgent(coordinator, backend, config=config) as agent:
            peer = await agent.connected()
            first, second, third, unknown = new_job(), new_job(), new_job(), new_job("other")
            await peer.send_jobs(first, second, third, unknown)
            assert (await peer.error(third.job_id)).code == "out_of_capacity"
            assert (await peer.error(unknown.job_id)).code == "model_not_loaded"
            await peer.cancel(first.job_id, "the client disconnected")
            error = await peer.error(first.job_id)
            assert (error.code, error.message) == ("cancelled", "the client disconnected")
            await peer.cancel(second.job_id)
            error = await peer.error(second.job_id)
            assert (error.code, error.message) == ("cancelled", "cancelled by the coordinator")


# --- rejected, lost, reconnected ------------------------------------------------------------------


@in_virtual_time
async def test_final_rejection_stops_the_agent_with_the_exit_code_for_refusals(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = Rejected("not_enrolled", "this code was used")
    async with (
        ScriptedCoordinator(lambda _: answer) as coordinator,
        RunningAgent(coordinator, ScriptedBackend()) as agent,
    ):
        assert await agent.task == EXIT_REFUSED
    (logged,) = [one for one in caplog.records if one.levelname == "ERROR"]
    fields = vars(logged)["fields"]
    assert "this code was used" in fields["reason"]
    assert "enrollment_code" in fields["what_to_do"]


@in_virtual_time
async def test_close_code_1002_before_the_first_welcome_stops_the_agent() -> None:
    async with (
        ScriptedCoordinator(lambda _: None) as coordinator,
        RunningAgent(coordinator, ScriptedBackend()) as agent,
    ):
        peer = await coordinator.next_connection()
        await peer.close(1002)
        assert await agent.task == EXIT_REFUSED


@in_virtual_time
async def test_close_code_1002_after_a_welcome_is_retried() -> None:
    # In an earlier version, one malformed frame stopped an agent permanently.
    async with (
        ScriptedCoordinator() as coordinator,
        RunningAgent(coordinator, ScriptedBackend(), jitter=0.5) as agent,
    ):
        await (await agent.connected()).close(1002)
        coordinator.answer = lambda _: None
        await (await coordinator.next_connection()).close(1002)
        coordinator.answer = lambda _: welcome()
        await agent.connected()


@pytest.mark.parametrize("answer", [404, 426, 502, "101 without the subprotocol"])
@in_virtual_time
async def test_answer_of_a_proxy_is_logged_as_an_error_and_retried(
    answer: int | str, caplog: pytest.LogCaptureFixture
) -> None:
    # In an earlier version, a proxy that answered 426 for a minute stopped every agent behind it
    # permanently.
    async with ScriptedCoordinator() as coordinator:
        if isinstance(answer, int):
            coordinator.refusals += [(answer, {})] * 3
        else:
            coordinator.subprotocol = None
        async with RunningAgent(coordinator, ScriptedBackend(), jitter=0.5) as agent:
            await asyncio.sleep(2)
            errors = [one for one in caplog.records if one.levelname == "ERROR"]
            assert [one.message for one in errors[:2]] == ["not connected"] * 2
            assert "[coordinator] url" in vars(errors[0])["fields"]["what_to_do"]
            coordinator.subprotocol = SUBPROTOCOL
            await agent.service.uplink.connected.wait()


@in_virtual_time
async def test_fallback_address_is_used_after_the_first_address_drops_two_sessions(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", "provider_agent")
    async with ScriptedCoordinator() as first, ScriptedCoordinator() as second:
        urls = f"{first.url}?a-secret", f"{second.url}?a-secret"
        addresses = CoordinatorConfig(url=urls[0], fallback_urls=urls[1:])
        config = agent_config(first.url, coordinator=addresses)
        async with RunningAgent(second, ScriptedBackend(), config=config, jitter=0.5) as agent:
            for _ in range(2):
                peer = await first.next_connection()
                await agent.service.uplink.connected.wait()
                await peer.close(1011)
            await agent.connected()
            assert len(first.connections) == 2
    logged = [vars(one).get("fields", {}) for one in caplog.records]
    assert f"{second.url}?[set]" in [fields.get("next") for fields in logged]
    connected = [vars(one)["fields"] for one in caplog.records if one.message == "connected"]
    shown = [f"{one.url}?[set]" for one in (first, first, second)]
    assert [fields["coordinator"] for fields in connected] == shown
    assert "a-secret" not in repr((logged, agent.service))


@in_virtual_time
async def test_a_long_stream_over_short_links_does_not_slow_down_reconnecting() -> None:
    # In an earlier version, links that broke every 50 s led to waits of up to a minute, in the
    # middle of a stream.
    resumed = new_job(deadline_ms=3_600_000)
    async with ScriptedCoordinator(lambda _: welcome(resume_ms=60_000)) as coordinator:
        coordinator.resumes = True
        backend = ScriptedBackend("a", model("m"))
        async with RunningAgent(coordinator, backend, jitter=0.9) as agent:
            peer = await agent.connected()
            await peer.send_jobs(resumed)
            run = await backend.next_run()
            run.start()
            waits = []
            for _ in range(12):
                run.send(b"x" * 1000)
                await asyncio.sleep(50)
                peer.cut()
                await peer.closed.wait()
                began = now()
                peer = await agent.connected()
                waits.append(now() - began)
            assert max(waits[2:]) < 1.0, waits


@in_virtual_time
async def test_fatal_disconnect_while_draining_does_not_count_as_a_second_signal() -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"))
        async with RunningAgent(coordinator, backend) as agent:
            peer = await agent.connected()
            await peer.send_jobs(new_job())
            await backend.next_run()
            agent.service.stop()
            await peer.next(Draining)
            await peer.close(REPLACED)
            assert await agent.task == EXIT_UNDELIVERED


@in_virtual_time
async def test_lost_link_without_resumption_cancels_its_jobs_and_the_agent_reconnects() -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"))
        async with RunningAgent(coordinator, backend) as agent:
            peer = await agent.connected()
            hello = await peer.next(Hello)
            await peer.send_jobs(new_job())
            run = await backend.next_run()
            run.start()
            run.send(b"part")
            peer.cut()
            await run.cancelled.wait()
            next_peer = await agent.connected()
            next_hello = await next_peer.next(Hello)
            assert next_hello.public_key == hello.public_key
            assert next_hello.instance_id == hello.instance_id
            assert (await next_peer.next(Capabilities)).revision == 2
            job = new_job()
            await next_peer.send_jobs(job)
            (await backend.next_run()).answer(b"whole")
            assert isinstance(await next_peer.end(job.job_id), JobResult)
            assert {type(one) for one in next_peer.frames} >= {JobStarted, JobResult}
            assert len(next_peer.ends(job.job_id)) == 1


@pytest.mark.parametrize(
    ("ending", "wait_s"),
    [("restart", 5.0), ("retry after 40 s", 40.0), ("rejected for 90 s", 90.0), ("lost", 0.0)],
)
@in_virtual_time
async def test_cause_of_a_disconnect_determines_the_wait_before_reconnecting(
    ending: str, wait_s: float
) -> None:
    async with ScriptedCoordinator() as coordinator:
        if ending == "retry after 40 s":
            coordinator.refusals.append((429, {"Retry-After": "40"}))
        answers = [Rejected("busy", "full", 90_000)] if ending == "rejected for 90 s" else []
        coordinator.answer = lambda _: answers.pop() if answers else welcome()
        began = now()
        async with RunningAgent(coordinator, ScriptedBackend()) as agent:
            if ending in ("restart", "lost"):
                peer = await agent.connected()
                await peer.close(1012 if ending == "restart" else 1001)
            if ending == "rejected for 90 s":
                await coordinator.next_connection()
            await agent.connected()
            assert now() - began == pytest.approx(wait_s)


# --- status ------------------------------------------------------------------------


@in_virtual_time
async def test_status_shows_the_last_disconnect_and_skipped_backends() -> None:
    async with ScriptedCoordinator() as coordinator:
        coordinator.refusals.append((401, {}))
        skipped = SkippedBackend("venice", "venice", "KEY is not set")
        began = now()
        async with RunningAgent(coordinator, ScriptedBackend("a"), skipped=[skipped]) as agent:
            assert agent.service.status().link == "starting"
            await asyncio.sleep(20)
            state = agent.service.status()
            assert (state.link, state.last_welcome_age_s) == ("connecting", None)
            assert state.last_disconnect is not None
            assert "HTTP status 401" in state.last_disconnect
            assert [(one.id, one.healthy, one.last_error) for one in state.backends] == [
                ("a", True, None),
                ("venice", False, "skipped: KEY is not set"),
            ]
            assert "token_file" in readiness(state)[0]
            await agent.connected()
            await asyncio.sleep(3)
            state = agent.service.status()
            assert state.last_disconnect is None
            assert state.last_welcome_age_s == pytest.approx(3)
            assert state.uptime_s == pytest.approx(now() - began)


@in_virtual_time
async def test_agent_is_not_ready_while_it_waits_to_reconnect() -> None:
    async with (
        ScriptedCoordinator() as coordinator,
        RunningAgent(coordinator, ScriptedBackend("a", model("m"))) as agent,
    ):
        peer = await agent.connected()
        await peer.close(1012)
        await asyncio.sleep(3)  # the wait after 1012 is at least 5 s
        state = agent.service.status()
        assert state.link == "connecting"
        assert "1012" in readiness(state)[0]


async def responds_to_a_probe(port: int) -> bool:
    """Send a request at once, and wait for the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /livez HTTP/1.0\r\n\r\n")
    status = await reader.readline()
    writer.close()
    return b" 200 " in status


@in_virtual_time
async def test_status_server_responds_when_the_link_is_up() -> None:
    port = closed_port()
    async with ScriptedCoordinator() as coordinator:
        config = agent_config(coordinator.url, prometheus_addr=f"127.0.0.1:{port}")
        began = now()
        async with RunningAgent(coordinator, ScriptedBackend(), config=config) as agent:
            await agent.connected()
            assert await responds_to_a_probe(port)
            assert now() - began < STATUS_DELAY_S


@in_virtual_time
async def test_status_server_responds_soon_without_a_link() -> None:
    port, hanging = closed_port(), ScriptedBackend()
    hanging.gate.clear()
    async with ScriptedCoordinator() as coordinator:
        config = agent_config(coordinator.url, prometheus_addr=f"127.0.0.1:{port}")
        began = now()
        async with RunningAgent(coordinator, hanging, config=config):
            await asyncio.sleep(0)  # the agent listens
            assert await responds_to_a_probe(port)
            assert now() - began == pytest.approx(STATUS_DELAY_S)


async def test_status_address_in_use_stops_the_agent_before_it_dials() -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            config = agent_config(coordinator.url, prometheus_addr=address)
            async with RunningAgent(coordinator, backend, config=config) as agent:
                with pytest.raises(StatusServerError):
                    await agent.task
        assert backend.closed
        assert coordinator.upgrades == []
