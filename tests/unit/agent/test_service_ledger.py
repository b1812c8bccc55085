import asyncio
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from provider_agent.agent.config import Config, ObservabilityConfig
from provider_agent.agent.telemetry.ledger import LedgerError, read_ledger
from provider_agent.agent.telemetry.metrics_page import MetricsPage
from tests.kit.agent_config import agent_config
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend, model
from tests.kit.scripted_coordinator import ScriptedCoordinator
from tests.kit.virtual_time import in_virtual_time


def config_with_ledger(url: str, path: Path) -> Config:
    observability = ObservabilityConfig(prometheus_addr="", ledger_path=path)
    return replace(agent_config(url), observability=observability)


@in_virtual_time
async def test_ledger_contains_every_job_of_an_agent_that_was_stopped(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    backend = ScriptedBackend("a", model("m", prices=(5, 7)))
    async with ScriptedCoordinator() as coordinator:
        config = config_with_ledger(coordinator.url, path)
        async with RunningAgent(coordinator, backend, config=config) as agent:
            peer = await agent.connected()
            finished, cut, refused = new_job(), new_job(), new_job("unknown")
            await peer.send_jobs(finished, refused)
            (await backend.next_run()).answer(b"the answer")
            await peer.end(finished.job_id)
            await peer.send_jobs(cut)
            await backend.next_run()
            agent.service.stop()
            await asyncio.sleep(1)
            agent.service.stop()  # the second signal
            await agent.task
    first, second = (entry for entry in read_ledger(path) if entry is not None)
    assert (first.id, first.code, first.model) == (finished.job_id.hex(), "ok", "m")
    assert (first.input_price_per_1m, first.output_price_per_1m) == (5, 7)
    assert (second.id, second.code) == (cut.job_id.hex(), "draining")


@in_virtual_time
async def test_ledger_that_fails_while_the_agent_runs_is_in_status_and_metrics(
    tmp_path: Path,
) -> None:
    path = tmp_path / "folder" / "ledger.jsonl"
    path.parent.mkdir()
    backend = ScriptedBackend("a", model("m"))
    async with ScriptedCoordinator() as coordinator:
        config = config_with_ledger(coordinator.url, path)
        async with RunningAgent(coordinator, backend, config=config) as agent:
            peer = await agent.connected()
            shutil.rmtree(path.parent)
            job = new_job()
            await peer.send_jobs(job)
            (await backend.next_run()).answer(b"the answer")
            await peer.end(job.job_id)
            await asyncio.sleep(2)
            ledger = agent.service.status().ledger
            assert ledger.problem is not None
            assert ledger.problem_age_s == 2.0
            page = MetricsPage(agent.service.metrics, agent.service.status).render()
            assert b"provider_agent_ledger_unwritten_jobs_total 1.0" in page


@in_virtual_time
async def test_agent_with_an_unusable_ledger_does_not_start(tmp_path: Path) -> None:
    async with ScriptedCoordinator() as coordinator:
        config = config_with_ledger(coordinator.url, tmp_path / "missing" / "ledger.jsonl")
        async with RunningAgent(coordinator, ScriptedBackend(), config=config) as agent:
            with pytest.raises(LedgerError):
                await agent.task
        assert coordinator.upgrades == []
