"""How a job ends when its server fails, or the job is stopped, invalid or sent twice."""

import asyncio

import pytest

from provider_agent.adapters.base import BackendSettings, WireFormat
from provider_agent.adapters.servers.openai_compatible import OpenAICompatibleBackend
from provider_agent.protocol.frames import JobResult
from provider_agent.protocol.limits import MIN_WINDOW_BYTES
from tests.kit.fakes.openai_compatible import MODEL, FakeOpenAICompatible
from tests.kit.fakes.server import FakeResponse, Fault
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.scripted_coordinator import AgentConnection, ScriptedCoordinator, welcome
from tests.kit.virtual_time import in_virtual_time, now

HANGS = [Fault.HANG_BEFORE_HEADERS, Fault.HANG_AFTER_HEADERS, Fault.HANG_AFTER_FIRST_CHUNK]


def backend_for(server: FakeOpenAICompatible) -> OpenAICompatibleBackend:
    formats = (WireFormat.OPENAI, WireFormat.ANTHROPIC)
    return OpenAICompatibleBackend(
        BackendSettings(kind=server.kind, url=server.url, formats=formats)
    )


async def assert_next_job_succeeds(peer: AgentConnection) -> None:
    """Check that agent and link still work."""
    job = new_job(MODEL)
    await peer.send_jobs(job)
    assert isinstance(await peer.end(job.job_id), JobResult)


@pytest.mark.parametrize("wire_format", ["openai", "anthropic"])
@pytest.mark.parametrize(
    ("faults", "code"),
    [
        # The first job's connection is reused: the request is sent once more, over a new one.
        ([Fault.RESET_BEFORE_HEADERS] * 2, "backend_unreachable"),
        ([Fault.RESET_MID_CHUNK], "backend_unreachable"),
        ([Fault.STOP_AFTER_FIRST_CHUNK], "invalid_response"),
        ([Fault.HANG_BEFORE_HEADERS], "backend_timeout"),
        ([Fault.HANG_AFTER_HEADERS], "backend_timeout"),
        ([Fault.HANG_AFTER_FIRST_CHUNK], "backend_timeout"),
    ],
    ids=lambda value: value[0].name if isinstance(value, list) else value,
)
@in_virtual_time
async def test_server_fault_ends_its_job_with_one_error(
    faults: list[Fault], code: str, wire_format: str
) -> None:
    async with (
        ScriptedCoordinator() as coordinator,
        FakeOpenAICompatible() as server,
        RunningAgent(coordinator, backend_for(server)) as agent,
    ):
        peer = await agent.connected()
        await assert_next_job_succeeds(peer)
        server.script_jobs(*faults)
        job = new_job(MODEL, wire_format=wire_format, deadline_ms=3_600_000)
        await peer.send_jobs(job)
        error = await peer.error(job.job_id)
        assert (error.code, error.retryable) == (code, True)
        assert error.total_bytes == len(peer.data[job.job_id])
        assert len(server.jobs) == 1 + len(faults)
        assert bytes(server.jobs[-1].sent).startswith(bytes(peer.data[job.job_id]))
        await assert_next_job_succeeds(peer)


@pytest.mark.parametrize("fault", HANGS)
@pytest.mark.parametrize("reason", ["cancel", "deadline", "forced stop"])
@in_virtual_time
async def test_stopped_job_closes_its_upstream_connection(fault: Fault, reason: str) -> None:
    async with (
        ScriptedCoordinator() as coordinator,
        FakeOpenAICompatible() as server,
        RunningAgent(coordinator, backend_for(server)) as agent,
    ):
        peer = await agent.connected()
        server.script_jobs(fault)
        job = new_job(MODEL, deadline_ms=20_000)
        started_at = now()
        await peer.send_jobs(job)
        recorded = await server.wait_for_job()
        if fault is not Fault.HANG_BEFORE_HEADERS:
            await recorded.started.wait()
        await _stop(reason, peer, agent, job.job_id)
        await recorded.disconnected.wait()
        assert now() - started_at == pytest.approx(20.0 if reason == "deadline" else 0.0)
        expected = {"cancel": "cancelled", "deadline": "deadline_exceeded"}
        error = await peer.error(job.job_id)
        assert error.code == expected.get(reason, "draining")
        assert len(peer.ends(job.job_id)) == 1


async def _stop(reason: str, peer: AgentConnection, agent: RunningAgent, job_id: bytes) -> None:
    if reason == "cancel":
        await peer.cancel(job_id, "client disconnected")
    if reason == "forced stop":
        agent.service.stop()
        agent.service.stop()


@pytest.mark.parametrize(
    ("status", "headers", "code", "retry_after_ms"),
    [
        (400, {}, "bad_request", None),
        (401, {}, "auth_rejected_by_backend", None),
        (404, {}, "model_not_loaded", None),
        (429, {"Retry-After": "7"}, "backend_overloaded", 7000),
        (500, {}, "backend_error", None),
        (503, {"Retry-After": "2.5"}, "backend_overloaded", 2500),
    ],
)
@in_virtual_time
async def test_error_status_reaches_the_coordinator_with_body_and_retry_time(
    status: int, headers: dict[str, str], code: str, retry_after_ms: int | None
) -> None:
    async with (
        ScriptedCoordinator() as coordinator,
        FakeOpenAICompatible() as server,
        RunningAgent(coordinator, backend_for(server)) as agent,
    ):
        peer = await agent.connected()
        body = b'{"error":{"message":"no"}}'
        response = FakeResponse((body,), status, headers=headers)
        # Without another backend, a 500 is retried once on the same server; 429 and 503 are not.
        server.script_jobs(response, *([response] if status == 500 else []))
        job = new_job(MODEL)
        await peer.send_jobs(job)
        error = await peer.error(job.job_id)
        assert (error.code, error.upstream_status, error.body) == (code, status, body)
        assert (error.retry_after_ms, error.total_bytes) == (retry_after_ms, 0)
        # The backend receives no job until `Retry-After` has passed.
        await asyncio.sleep((retry_after_ms or 0) / 1000)
        await assert_next_job_succeeds(peer)


@pytest.mark.parametrize("fault", [Fault.HANG_BEFORE_HEADERS, Fault.HANG_AFTER_HEADERS])
@in_virtual_time
async def test_job_on_a_hanging_server_fails_over_after_the_first_byte_timeout(
    fault: Fault,
) -> None:
    async with (
        ScriptedCoordinator() as coordinator,
        FakeOpenAICompatible() as hanging,
        FakeOpenAICompatible() as healthy,
        RunningAgent(coordinator, backend_for(hanging), backend_for(healthy)) as agent,
    ):
        peer = await agent.connected()
        hanging.script_jobs(fault)
        job = new_job(MODEL, deadline_ms=3_600_000)
        await peer.send_jobs(job)
        end = await peer.end(job.job_id)
        assert isinstance(end, JobResult)
        first_byte_s = backend_for(hanging).timeouts.first_byte_s
        assert end.first_byte_ms == pytest.approx(first_byte_s * 1000)
        assert hanging.jobs[0].disconnected.is_set(), (
            "the connection to the hanging server must be closed"
        )
        assert bytes(peer.data[job.job_id]) == bytes(healthy.jobs[0].sent)
        assert len(peer.ends(job.job_id)) == 1


@in_virtual_time
async def test_request_that_is_not_a_json_object_never_reaches_the_server() -> None:
    async with (
        ScriptedCoordinator() as coordinator,
        FakeOpenAICompatible() as server,
        RunningAgent(coordinator, backend_for(server)) as agent,
    ):
        peer = await agent.connected()
        for request in (b"", b"[1]", b'"x"', b"{", b"null", b"\xff"):
            job = new_job(MODEL, request=request)
            await peer.send_jobs(job)
            assert (await peer.error(job.job_id)).code == "bad_request"
        assert server.jobs == []
        await assert_next_job_succeeds(peer)


@in_virtual_time
async def test_jobs_for_a_stopped_server_fail_as_unreachable_and_later_as_not_loaded() -> None:
    async with ScriptedCoordinator() as coordinator:
        server = FakeOpenAICompatible()
        async with server:
            backend = backend_for(server)
            agent = RunningAgent(coordinator, backend)
            await agent.__aenter__()
            peer = await agent.connected()
        job = new_job(MODEL)
        await peer.send_jobs(job)
        assert (await peer.error(job.job_id)).code == "backend_unreachable"
        await asyncio.sleep(70)
        second = new_job(MODEL)
        await peer.send_jobs(second)
        assert (await peer.error(second.job_id)).code == "model_not_loaded"
        await agent.__aexit__(None, None, None)


@in_virtual_time
async def test_slow_consumer_pauses_only_its_own_job() -> None:
    async with ScriptedCoordinator(lambda _: welcome(window_bytes=MIN_WINDOW_BYTES)) as coordinator:
        backend = ScriptedBackend()
        async with RunningAgent(coordinator, backend) as agent:
            peer = await agent.connected()
            peer.acknowledges = False
            stalled, active = new_job(), new_job()
            await peer.send_jobs(stalled, active)
            stalled_run, active_run = await backend.next_run(), await backend.next_run()
            stalled_run.start()
            stalled_run.send(bytes(MIN_WINDOW_BYTES), b"more")
            assert stalled_run.paused
            active_run.answer(b"fast")
            assert isinstance(await peer.end(active.job_id), JobResult)
            assert active_run.pauses == 0
            assert len(await peer.wait_for_bytes(stalled.job_id, 1)) == MIN_WINDOW_BYTES
            assert stalled_run.paused
            await peer.send_pending_frames()
            await stalled_run.resumed.wait()
            stalled_run.finish()
            assert (await peer.end(stalled.job_id)).total_bytes == MIN_WINDOW_BYTES + 4


@in_virtual_time
async def test_job_delivered_twice_runs_once() -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend()
        async with RunningAgent(coordinator, backend) as agent:
            peer = await agent.connected()
            job = new_job()
            await peer.send_jobs(job)
            await peer.send(job)
            run = await backend.next_run()
            run.answer(b"once")
            await peer.end(job.job_id)
            await peer.send(job)
            await peer.settle()
            assert len(backend.runs) == 1
            assert len(peer.ends(job.job_id)) == 1
