"""Traces of jobs, from an agent to a collector in this process."""

import logging

import pytest
from msgspec.structs import replace

from provider_agent.adapters.base import Unreachable
from provider_agent.agent.telemetry.traces.settings import TraceSettings
from provider_agent.protocol.frames import JobResult
from tests.kit.jobs import new_job
from tests.kit.otlp_collector import RECEIVED_WITHIN_S, OtlpCollector, attributes
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.scripted_coordinator import ScriptedCoordinator

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE_ID}-{SPAN_ID}-01"
PROMPT, ANSWER, KEY = b"the prompt of a client", b"the answer of a model", "the-key-of-a-collector"
SETTINGS = TraceSettings(schedule_delay_s=0.01, flush_s=RECEIVED_WITHIN_S)


def export_to(url: str, monkeypatch: pytest.MonkeyPatch, **more: str) -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_EXPORTER_OTLP_HEADERS": f"api-key={KEY}",
        **more,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


async def run_job(
    agent: RunningAgent, backend: ScriptedBackend, traceparent: str = SAMPLED
) -> None:
    """Run one job to its end; the agent must be connected already."""
    peer = await agent.connected()
    job = replace(new_job(request=PROMPT), traceparent=traceparent)
    await peer.send_jobs(job)
    (await backend.next_run()).answer(ANSWER)
    assert isinstance(await peer.end(job.job_id), JobResult)


async def stop(agent: RunningAgent) -> None:
    agent.service.stop()
    await agent.task


async def test_trace_of_a_job_continues_that_of_its_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dead, backend = (
        ScriptedBackend("scripted:http://dead:8000"),
        ScriptedBackend("scripted:http://gpu:8000"),
    )
    async with OtlpCollector() as collector, ScriptedCoordinator() as coordinator:
        export_to(collector.url, monkeypatch, OTEL_RESOURCE_ATTRIBUTES="team=night,a=b")
        async with RunningAgent(coordinator, dead, backend, trace_settings=SETTINGS) as agent:
            peer = await agent.connected()
            job = replace(new_job(request=PROMPT), traceparent=SAMPLED)
            await peer.send_jobs(job)
            (await dead.next_run()).fail(Unreachable("refused"))
            (await backend.next_run()).answer(ANSWER)
            await peer.end(job.job_id)
            await stop(agent)
            assert agent.service.metrics.traces == {"exported": 1, "failed": 0, "dropped": 0}

    root = collector.named("job")
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE_ID, SPAN_ID)
    assert root.kind == root.SPAN_KIND_SERVER
    children = [span for span in collector.spans if span is not root]
    assert sorted(span.name for span in children) == ["chat m", "chat m", "queue"]
    assert {span.parent_span_id for span in children} == {root.span_id}
    first, second = (span for span in children if span.name == "chat m")
    assert attributes(first.attributes)["error.type"] == "backend_unreachable"
    assert (first.status.code, first.status.message) == (2, "backend_unreachable")
    assert second.kind == second.SPAN_KIND_CLIENT
    assert second.status.code == 0
    assert [event.name for event in second.events] == ["first_byte"]
    assert attributes(second.attributes)["gen_ai.usage.output_tokens"] == 4
    assert attributes(second.attributes)["server.address"] == "gpu"
    assert root.start_time_unix_nano <= first.start_time_unix_nano
    assert second.end_time_unix_nano <= root.end_time_unix_nano
    assert collector.resource["service.name"] == "provider-agent"
    assert collector.resource["team"] == "night"
    assert collector.headers["api-key"] == KEY
    sent = b"".join(collector.bodies)
    assert not [one for one in (PROMPT, ANSWER, KEY.encode()) if one in sent]


async def test_trace_that_the_client_does_not_sample_is_not_exported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backend = ScriptedBackend()
    async with OtlpCollector() as collector, ScriptedCoordinator() as coordinator:
        export_to(collector.url, monkeypatch)
        async with RunningAgent(coordinator, backend, trace_settings=SETTINGS) as agent:
            await run_job(agent, backend, f"00-{TRACE_ID}-{SPAN_ID}-00")
            await stop(agent)
    assert collector.bodies == []


@pytest.mark.parametrize("failure", ["down", "503", "slow"])
async def test_collector_that_fails_costs_no_job_and_one_warning(
    failure: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    backend = ScriptedBackend()
    async with OtlpCollector() as collector, ScriptedCoordinator() as coordinator:
        export_to(
            "http://127.0.0.1:9" if failure == "down" else collector.url,
            monkeypatch,
            OTEL_EXPORTER_OTLP_TIMEOUT="0.2",
        )
        collector.status = 503
        if failure == "slow":
            collector.hold.clear()
        async with RunningAgent(coordinator, backend, trace_settings=SETTINGS) as agent:
            await run_job(agent, backend)
            if failure != "down":
                await collector.received()
            await stop(agent)
            assert agent.service.metrics.traces == {"exported": 0, "failed": 1, "dropped": 0}
    fields = [one.__dict__["fields"] for one in caplog.records]
    reasons = {
        "down": "the collector cannot be reached",
        "503": "the collector responded with HTTP 503",
        "slow": "the collector did not respond in time",
    }
    assert [one["reason"] for one in fields] == [reasons[failure]]
    assert KEY not in caplog.text


async def test_collector_that_hangs_does_not_delay_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = ScriptedBackend()
    async with OtlpCollector() as collector, ScriptedCoordinator() as coordinator:
        export_to(collector.url, monkeypatch)
        collector.hold.clear()
        settings = replace(SETTINGS, max_queue=2)
        async with RunningAgent(coordinator, backend, trace_settings=settings) as agent:
            peer = await agent.connected()
            for _ in range(6):
                job = new_job()
                await peer.send_jobs(job)
                (await backend.next_run()).answer(b"x")
                assert isinstance(await peer.end(job.job_id), JobResult)
                await collector.received()
            counts = agent.service.metrics.traces
            assert counts["dropped"] == 6 - 1 - settings.max_queue
            collector.hold.set()
            await stop(agent)
            assert counts["exported"] == 1 + settings.max_queue


async def test_agent_without_traces_records_no_times() -> None:
    backend = ScriptedBackend()
    async with ScriptedCoordinator() as coordinator, RunningAgent(coordinator, backend) as agent:
        peer = await agent.connected()
        job = new_job()
        await peer.send_jobs(job)
        run = await backend.next_run()
        (running,) = agent.service.jobs._running.values()
        assert running.timeline is None
        run.answer(b"x")
        await peer.end(job.job_id)
