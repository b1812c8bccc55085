"""A process whose standard error is not read goes on working."""

import signal
from pathlib import Path

from provider_agent.protocol.frames import Capabilities, JobResult
from tests.integration.test_cli_signals import config_text
from tests.kit.cli_process import start_command
from tests.kit.jobs import new_job
from tests.kit.scripted_coordinator import ScriptedCoordinator

JOBS = 400
"""Each logs more than 1 KiB at "debug": together more than the pipe and the test's buffer hold."""


async def test_agent_runs_jobs_although_nothing_reads_its_log(tmp_path: Path) -> None:
    async with ScriptedCoordinator() as coordinator:
        (tmp_path / "agent.toml").write_text(config_text(coordinator.url), "utf-8")
        async with start_command("run", "--log-level", "debug", home=tmp_path) as agent:
            link = await coordinator.next_connection()
            await link.next(Capabilities)
            for _ in range(JOBS):
                job = new_job("echo")
                await link.send_jobs(job)
                assert isinstance(await link.end(job.job_id), JobResult)
            agent.signal(signal.SIGTERM)
            result = await agent.wait()

    assert result.code == 0
    assert " stopped " in result.err
    assert len(result.err) > 256 * 1024
