"""Traces of a real agent process."""

import signal
from pathlib import Path

from msgspec.structs import replace

from provider_agent.protocol.frames import JobResult
from tests.integration.test_cli_signals import write_config
from tests.kit.cli_process import start_command
from tests.kit.jobs import new_job
from tests.kit.otlp_collector import OtlpCollector
from tests.kit.scripted_coordinator import ScriptedCoordinator

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


async def test_variables_of_the_environment_turn_traces_on(tmp_path: Path) -> None:
    async with OtlpCollector() as collector, ScriptedCoordinator() as coordinator:
        write_config(tmp_path, coordinator.url)
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_SERVICE_NAME": "night-shift",
        }
        async with start_command("run", home=tmp_path, env=variables) as agent:
            link = await coordinator.next_connection()
            await agent.wait_for_log(" connected ")
            job = replace(new_job("echo"), traceparent=f"00-{TRACE_ID}-b7ad6b7169203331-01")
            await link.send_jobs(job)
            assert isinstance(await link.end(job.job_id), JobResult)
            await collector.received()
            agent.signal(signal.SIGTERM)
            result = await agent.wait()

    assert result.code == 0
    assert collector.named("job").trace_id.hex() == TRACE_ID
    assert collector.resource["service.name"] == "night-shift"
    assert "traces " not in result.err
