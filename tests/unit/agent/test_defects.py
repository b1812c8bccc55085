"""A defect of the agent or of an adapter ends at most one link or one job, never the process."""

import asyncio
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from provider_agent.adapters.base import BadRequest
from provider_agent.agent.jobs.ends import JobReport, result_end
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.jobs.running import Jobs
from provider_agent.agent.service import EXIT_OK
from provider_agent.agent.telemetry.reports import Reports
from provider_agent.protocol.frames import (
    Cancel,
    Capabilities,
    Heartbeat,
    JobResult,
    ResponseHeader,
    Usage,
)
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend, ScriptedRun, model
from tests.kit.scripted_coordinator import AgentConnection, ScriptedCoordinator, welcome
from tests.kit.virtual_time import in_virtual_time

BROKEN = "\udcff"
"""A text that cannot be encoded as UTF-8."""


async def check_that_jobs_run(peer: AgentConnection, backend: ScriptedBackend) -> None:
    job = new_job()
    await peer.send_jobs(job)
    while (run := await backend.next_run()).job.job_id != job.job_id:
        pass  # the run of an earlier job
    run.answer(b"works")
    assert isinstance(await peer.end(job.job_id), JobResult)


def raise_defect(*_args: object, **_kwargs: object) -> None:
    raise RuntimeError("a defect")


@pytest.mark.parametrize(
    ("owner", "name"), [(Outbox, "acknowledge"), (Outbox, "next_batch"), (Jobs, "cancel")]
)
@in_virtual_time
async def test_defect_in_the_reader_or_the_writer_ends_only_the_link(
    owner: type, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # In an earlier version, such an exception ended the process.
    async with ScriptedCoordinator(lambda _: welcome(resume_ms=60_000)) as coordinator:
        coordinator.resumes = True
        backend = ScriptedBackend("a", model("m"), max_concurrent=2)
        async with RunningAgent(coordinator, backend, jitter=0.5) as agent:
            peer = await agent.connected()
            await peer.next(Capabilities)
            resumed = new_job()
            await peer.send_jobs(resumed)
            run = await backend.next_run()
            with monkeypatch.context() as patched:
                patched.setattr(owner, name, raise_defect)
                run.start()
                run.send(b"x" * 300_000)
                await peer.send(Cancel(b"?" * 16))
                await peer.closed.wait()
            assert peer.socket.close_code == 1011
            assert "link failed by an internal error" in caplog.text
            next_peer = await agent.connected()
            run.finish()
            assert isinstance(await next_peer.end(resumed.job_id), JobResult)
            await check_that_jobs_run(next_peer, backend)
            agent.service.stop()
            assert await agent.task == EXIT_OK


@pytest.mark.parametrize("error", [RuntimeError("a defect"), SystemExit(3), RecursionError()])
@in_virtual_time
async def test_defect_in_an_adapter_fails_only_its_job(error: BaseException) -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"))
        async with RunningAgent(coordinator, backend) as agent:
            peer = await agent.connected()
            job = new_job()
            await peer.send_jobs(job)
            (await backend.next_run()).outcome.set_exception(error)
            assert (await peer.error(job.job_id)).code == "internal"
            await check_that_jobs_run(peer, backend)
            assert not agent.task.done()


@pytest.mark.parametrize("name", ["_report_hang", "_try_backends"])
@in_virtual_time
async def test_defect_in_the_execution_of_a_job_fails_only_that_job(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In an earlier version, a job whose error handling raised an exception had no end.
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"))
        async with RunningAgent(coordinator, backend) as agent:
            peer = await agent.connected()
            job = new_job(deadline_ms=1000)
            with monkeypatch.context() as patched:
                patched.setattr(
                    f"provider_agent.agent.jobs.execution.JobExecution.{name}", raise_defect
                )
                await peer.send_jobs(job)
                assert (await peer.error(job.job_id)).code == "internal"
            await check_that_jobs_run(peer, backend)


@in_virtual_time
async def test_defect_in_the_handling_of_a_backend_error_fails_only_that_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"))
        async with RunningAgent(coordinator, backend) as agent:
            peer = await agent.connected()
            job = new_job()
            await peer.send_jobs(job)
            run = await backend.next_run()
            with monkeypatch.context() as patched:
                patched.setattr(
                    "provider_agent.agent.jobs.execution.backend_error_end", raise_defect
                )
                run.fail(BadRequest("no"))
                assert (await peer.error(job.job_id)).code == "internal"
            await check_that_jobs_run(peer, backend)


@pytest.mark.parametrize(
    ("target", "event"),
    [
        (
            "provider_agent.agent.jobs.slow_consumers.SlowConsumers.stalled",
            "check for slow consumers failed",
        ),
        ("provider_agent.agent.service.offer_warnings", "offer warnings failed"),
    ],
)
@in_virtual_time
async def test_defect_in_a_check_beside_the_jobs_is_logged(
    target: str, event: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"))
        with monkeypatch.context() as patched:
            patched.setattr(target, raise_defect)
            async with RunningAgent(coordinator, backend) as agent:
                peer = await agent.connected()
                await asyncio.sleep(60)
                await check_that_jobs_run(peer, backend)
    assert event in caplog.text


@pytest.mark.parametrize(
    "target",
    [
        "provider_agent.agent.jobs.admission.JobAdmission.admit",
        "provider_agent.agent.backends.discovery.Discovery.start",
    ],
)
@in_virtual_time
async def test_defect_in_the_admission_of_a_job_fails_only_that_job(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"))
        async with RunningAgent(coordinator, backend) as agent:
            peer = await agent.connected()
            job = new_job()
            with monkeypatch.context() as patched:
                patched.setattr(target, raise_defect)
                await peer.send_jobs(job)
                assert (await peer.error(job.job_id)).code == "internal"
            await check_that_jobs_run(peer, backend)


@in_virtual_time
async def test_defect_in_the_capabilities_does_not_end_the_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"))
        async with RunningAgent(coordinator, backend) as agent:
            with monkeypatch.context() as patched:
                patched.setattr("provider_agent.agent.service.agent_limits", raise_defect)
                peer = await agent.connected()
            await check_that_jobs_run(peer, backend)
            agent.service.advertiser.send()
            await peer.next(Capabilities)


@in_virtual_time
async def test_defect_before_dialing_fails_only_that_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ScriptedCoordinator() as coordinator:
        with monkeypatch.context() as patched:
            patched.setattr("provider_agent.agent.link.uplink.AgentProtocol", raise_defect)
            async with RunningAgent(coordinator, ScriptedBackend(), jitter=0.5) as agent:
                await asyncio.sleep(10)
                patched.undo()
                await agent.connected()


@in_virtual_time
async def test_defect_in_a_heartbeat_skips_only_that_heartbeat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ScriptedCoordinator(lambda _: welcome(heartbeat_ms=5000)) as coordinator:
        with monkeypatch.context() as patched:
            patched.setattr(Reports, "heartbeat", raise_defect)
            async with RunningAgent(coordinator, ScriptedBackend()) as agent:
                peer = await agent.connected()
                await asyncio.sleep(12)
                patched.undo()
                await peer.next(Heartbeat)
                assert not agent.task.done()


def break_start(run: ScriptedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a response whose `JobStarted` cannot be encoded."""
    run.start()
    stream = run.sink.stream  # type: ignore[attr-defined]
    stream.started.headers.append(ResponseHeader("x-request-id", BROKEN))
    run.send(b"never sent")


def break_end(run: ScriptedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Complete a response whose `JobResult` cannot be encoded."""

    def broken_end(report: JobReport) -> JobResult:
        return replace(result_end(report), usage=Usage(2**70))

    monkeypatch.setattr("provider_agent.agent.jobs.execution.result_end", broken_end)
    run.answer(b"sent")


@pytest.mark.parametrize(("break_frame", "sent"), [(break_start, b""), (break_end, b"sent")])
@in_virtual_time
async def test_frame_that_cannot_be_encoded_ends_its_job_with_an_internal_error(
    break_frame: Callable[[ScriptedRun, pytest.MonkeyPatch], None],
    sent: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # In an earlier version, such a frame ended the process.
    async with ScriptedCoordinator() as coordinator:
        backend = ScriptedBackend("a", model("m"), max_concurrent=2)
        async with RunningAgent(coordinator, backend) as agent:
            peer = await agent.connected()
            job, other = new_job(), new_job()
            await peer.send_jobs(job, other)
            run, other_run = await backend.next_run(), await backend.next_run()
            with monkeypatch.context() as patched:
                break_frame(run, patched)
                end = await peer.error(job.job_id)
            assert (end.code, end.total_bytes) == ("internal", len(sent))
            assert bytes(peer.data[job.job_id]) == sent
            other_run.answer(b"whole")
            assert isinstance(await peer.end(other.job_id), JobResult)
            assert "frame cannot be sent" in caplog.text
            await check_that_jobs_run(peer, backend)
            agent.service.stop()
            assert await agent.task == EXIT_OK
            assert len(coordinator.connections) == 1
