"""The status page of a running agent in headless Chromium."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from msgspec import Struct
from msgspec.structs import replace

from provider_agent.adapters.base import BackendHealth
from provider_agent.agent.availability.status import AvailabilityStatus
from provider_agent.agent.backends.routing import RefusalReason
from provider_agent.agent.config import LimitsConfig
from provider_agent.agent.jobs.job_record import JobRecord
from provider_agent.agent.telemetry.reports import count_job
from provider_agent.protocol.frames import JobError, JobResult, RoutingStatus, Usage
from tests.kit.agent_config import agent_config
from tests.kit.browser import Browser
from tests.kit.cli_agent import READY, free_ports, status_server
from tests.kit.fake_clock import FakeClock
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend, model
from tests.kit.scripted_coordinator import AgentConnection, ScriptedCoordinator
from tests.kit.virtual_time import now

SCREENSHOT = "STATUS_PAGE_SCREENSHOT"
"""The variable with the file that `make screenshot` writes."""


class Stage(Struct):
    """A page that shows a running agent."""

    agent: RunningAgent
    coordinator: ScriptedCoordinator
    connection: AgentConnection
    browser: Browser
    url: str


@asynccontextmanager
async def shown_agent(browser: Browser, *backends: ScriptedBackend) -> AsyncIterator[Stage]:
    """Run an agent, and open its status page."""
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    async with ScriptedCoordinator() as coordinator:
        config = agent_config(
            coordinator.url, prometheus_addr=address, limits=LimitsConfig(max_concurrent=8)
        )
        async with RunningAgent(coordinator, *backends, config=config) as agent:
            connection = await agent.connected()
            await browser.open(f"http://{address}/")
            await browser.wait_until("text('link').startsWith('Connected to ws://127.0.0.1')")
            yield Stage(agent, coordinator, connection, browser, f"http://{address}/")


async def test_a_job_appears_runs_and_ends(browser: Browser) -> None:
    backend = ScriptedBackend()
    async with shown_agent(browser, backend) as stage:
        assert await browser.evaluate("text('running')") == ""
        request = b'{"messages":[{"role":"user","content":"SECRET prompt"}],"stream":true}'
        job = new_job(request=request)
        await stage.connection.send_jobs(job)
        run = await backend.next_run()
        await browser.wait_until("text('running').includes('waiting')")

        run.start()
        run.send(b"SECRET answer".ljust(1000))
        rate = "document.querySelector('#running td:nth-child(2)').textContent"
        await browser.wait_until(f"{rate}.endsWith('B/s')")
        first = await browser.evaluate(rate)
        run.send(b"x" * 50_000)
        await browser.wait_until(f"{rate} !== {first!r} && {rate}.endsWith('B/s')")

        run.finish(30, 40)
        await stage.connection.end(job.job_id)
        await browser.wait_until("text('running') === '' && text('jobs').includes('ok')")
        chart = "document.querySelector('#charts svg').getAttribute('aria-label')"
        assert "highest 40, in the current minute 40" in await browser.evaluate(chart)
        assert await browser.problems() == []
        # Neither the page nor the state has a text of the job.
        assert "SECRET" not in await browser.evaluate("document.documentElement.outerHTML")
        async with aiohttp.ClientSession() as http, http.get(f"{stage.url}status") as response:
            assert job.job_id.hex() in (text := await response.text())
            assert "SECRET" not in text


async def test_a_lost_backend_is_shown_with_its_problem(browser: Browser) -> None:
    backend = ScriptedBackend()
    async with shown_agent(browser, backend) as stage:
        await browser.wait_until("text('backends').includes('healthy')")
        backend.reported_health = BackendHealth(False, None, "connection refused")
        await stage.agent.service._discovery.check_all()
        await browser.wait_until(
            "text('backends').includes('no jobs') && text('backends').includes('refused')"
        )
        assert "no healthy backend" in await browser.evaluate("text('reasons')")


async def test_a_lost_link_is_shown_until_it_is_back(browser: Browser) -> None:
    async with shown_agent(browser, ScriptedBackend()) as stage:
        await stage.coordinator.stop()
        await browser.wait_until("text('link').startsWith('Not connected to ws://')")
        assert await browser.evaluate("document.getElementById('link').className") == "pill bad"
        assert "not connected" in await browser.evaluate("text('reasons')")
        async with stage.coordinator:
            await browser.wait_until("text('link').startsWith('Connected to ws://')")
            assert await browser.evaluate("document.getElementById('reasons').hidden")


async def test_a_drain_and_the_end_of_the_agent_are_shown(browser: Browser) -> None:
    backend = ScriptedBackend()
    async with shown_agent(browser, backend) as stage:
        job = new_job()
        await stage.connection.send_jobs(job)
        run = await backend.next_run()
        stage.agent.service.stop()
        await browser.wait_until("text('link').startsWith('The agent is stopping')")
        run.start()
        run.finish()
        await stage.connection.end(job.job_id)
        assert await stage.agent.task == 0
        await browser.wait_until("text('link').startsWith('The agent has not responded')")
        assert await browser.evaluate("document.body.className") == "lost"


OPEN_UNTIL = AvailabilityStatus(schedule_changes_at="2026-11-29T18:00:00+00:00")
PAUSED = AvailabilityStatus(
    open=False, reason="paused by hand", opens_at="2026-11-29T14:00:00+00:00", paused=True
)


async def test_schedule_and_pause_of_agent_and_backend_are_shown(browser: Browser) -> None:
    backend = replace(READY.backends[0], availability=PAUSED)
    async with status_server(
        replace(READY, availability=OPEN_UNTIL, backends=[backend])
    ) as address:
        await browser.open(f"http://{address}/")
        await browser.wait_until("text('link').startsWith('Connected')")
        assert "Serves until2026-11-29T18:00:00+00:00" in await browser.evaluate("text('facts')")
        assert "not serving" in await browser.evaluate("text('backends')")
        assert "paused by hand" in await browser.evaluate("text('backends')")
    async with status_server(replace(READY, availability=PAUSED, link="stopped")) as address:
        await browser.open(f"http://{address}/")
        text = "Not serving: paused by hand; back at 2026-11-29 14:00:00+00:00"
        await browser.wait_until(f"text('link') === {text!r}")


async def test_page_reconnects_to_a_restarted_agent(browser: Browser) -> None:
    (port,) = free_ports(1)
    async with status_server(ports=str(port)) as address:
        await browser.open(f"http://{address}/")
        await browser.wait_until("text('link').startsWith('Connected')")
    await browser.wait_until("text('link').startsWith('The agent has not responded')")
    async with status_server(ports=str(port)):
        await browser.wait_until("text('link').startsWith('Connected')")
        assert await browser.evaluate("document.body.className") == ""


async def test_screenshot_of_a_busy_agent(browser: Browser, tmp_path: Path) -> None:
    """`make screenshot` writes the picture of the README."""
    path = Path(os.environ.get(SCREENSHOT) or tmp_path / "status-page.png")
    local = ScriptedBackend(
        "vllm:http://127.0.0.1:8000", model("llama-3.1-8b", prices=(50_000, 80_000))
    )
    hosted = ScriptedBackend("llamacpp:http://127.0.0.1:8080", model("qwen3-4b"))
    async with shown_agent(browser, local, hosted) as stage:
        fill_last_hour(stage.agent)
        hosted.reported_health = BackendHealth(False, None, "connection refused; start the server")
        await stage.agent.service._discovery.check_all()
        await stage.connection.send(RoutingStatus(revision=10_000, unroutable=[]))
        for _ in range(3):
            await stage.connection.send_jobs(new_job("llama-3.1-8b"))
            run = await local.next_run()
            run.start()
            run.send(b"x" * 9000)
        await browser.wait_until(
            "[...document.querySelectorAll('#running td:nth-child(2)')].length === 3 && "
            "[...document.querySelectorAll('#running td:nth-child(2)')]"
            ".every((one) => one.textContent.endsWith('tokens/s'))"
        )
        await browser.resize(1000, 920)
        await browser.screenshot(path)
        for run in local.runs:
            run.finish()
    assert 10_000 < path.stat().st_size < 300_000  # noqa: ASYNC240 - the browser has written it


def fill_last_hour(agent: RunningAgent) -> None:
    """Count an hour of jobs as if they had run."""
    service = agent.service
    service._reports._started_at -= 93_600
    parts = (service._history, service._stats, service.metrics)
    clock = FakeClock()
    for part in parts:
        part._clock = clock
    for ago in range(59, -1, -1):
        clock.now = now() - 60 * ago - 20
        for number in range(1 + ago % 4):
            tokens = 300 + 170 * ((ago * 7 + number * 3) % 9)
            first_ms = 180 + 40 * ((ago * 5 + number) % 7)
            usage = Usage(2 * tokens, tokens)
            end = JobResult(
                bytes([ago, number]) * 8,
                tokens * 210,
                usage,
                "vllm:http://127.0.0.1:8000",
                tokens * 24,
                first_ms,
                50_000,
                80_000,
            )
            record = JobRecord(
                "openai" if number % 2 else "anthropic",
                "vllm",
                end,
                first_ms / 1000,
                1,
                "llama-3.1-8b",
                streamed=True,
            )
            count_job(record, service._stats, service.metrics, service._history)
        if ago in (41, 17):
            full = JobError(bytes([ago]) * 16, 0, "out_of_capacity", "full")
            refused = JobRecord(
                "openai", "", full, None, 0, "llama-3.1-8b", refusal=RefusalReason.AGENT_FULL
            )
            count_job(refused, service._stats, service.metrics, service._history)
    for part in parts:
        part._clock = now
