"""The status page in headless Chromium."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from msgspec import Struct
from msgspec.structs import replace

from provider_agent.adapters.base import BackendHealth
from provider_agent.agent.availability.status import AvailabilityStatus
from provider_agent.agent.backends.routing import RefusalReason
from provider_agent.agent.config import LimitsConfig
from provider_agent.agent.jobs.job_record import JobRecord
from provider_agent.agent.link.coordinator_messages import (
    ReceivedNotice,
    Routing,
    UnroutableOffer,
)
from provider_agent.agent.telemetry.job_status import (
    EndedJobStatus,
    MinuteStatus,
    RunningJobStatus,
)
from provider_agent.agent.telemetry.reports import count_job
from provider_agent.agent.telemetry.status import (
    BackendStatus,
    RefusedJobStatus,
    StatusSnapshot,
    Totals,
)
from provider_agent.protocol.frames import JobError, JobResult, RoutingStatus, Usage
from tests.kit.agent_config import agent_config
from tests.kit.browser import Browser, start_browser
from tests.kit.cli_agent import READY, free_ports, status_server
from tests.kit.fake_clock import FakeClock
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend, model
from tests.kit.scripted_coordinator import AgentConnection, ScriptedCoordinator
from tests.kit.virtual_time import now

SCREENSHOT = "STATUS_PAGE_SCREENSHOT"
"""The variable with the file that `make screenshot` writes."""

HTML = '<img src=x onerror="window.hacked = true"><script>window.hacked = true</script>'
LONG = "acme/" + "a-very-long-name-without-a-space-" * 6


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with start_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
async def browser(chromium: Browser) -> AsyncIterator[Browser]:
    yield chromium
    await chromium.leave()


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
        rate = "document.querySelector('#running td:last-child').textContent"
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
        await browser.wait_until("text('link').startsWith('The agent does not respond')")
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
        text = "Not serving: paused by hand; back at 2026-11-29T14:00:00+00:00"
        await browser.wait_until(f"text('link') === {text!r}")


async def test_page_reconnects_to_a_restarted_agent(browser: Browser) -> None:
    (port,) = free_ports(1)
    async with status_server(ports=str(port)) as address:
        await browser.open(f"http://{address}/")
        await browser.wait_until("text('link').startsWith('Connected')")
    await browser.wait_until("text('link').startsWith('The agent does not respond')")
    async with status_server(ports=str(port)):
        await browser.wait_until("text('link').startsWith('Connected')")
        assert await browser.evaluate("document.body.className") == ""


def busy_state(name: str) -> StatusSnapshot:
    """A state with `name` at every place where a text of others is shown."""
    running = RunningJobStatus(
        id="00",
        model_id=name,
        backend_id=name,
        format=name,
        age_s=75.0,
        first_byte_ms=310.2,
        bytes=12_000,
        bytes_per_second=9_000.0,
        tokens_per_second=41.25,
    )
    ended = EndedJobStatus(
        id="01",
        model_id=name,
        backend_id=name,
        format=name,
        outcome="ok",
        age_s=42.0,
        duration_ms=12_600,
        first_byte_ms=280,
        input_tokens=900,
        output_tokens=120,
        earned=1234.0,
    )
    return replace(
        READY,
        link="connecting",
        coordinator_url=name,
        last_disconnect=name,
        in_flight=3,
        routing=Routing(
            revision=1, unroutable_count=1, unroutable=[UnroutableOffer(name, name, name)]
        ),
        notices=[
            ReceivedNotice(code=name, severity="error", message=name, model_id=name, age_s=9.0)
        ],
        backends=[
            BackendStatus(id=name, kind=name, healthy=False, last_error=name),
            BackendStatus(id="echo", kind="echo", healthy=True, models=1, capacity=4),
        ],
        offered=[name, "m"],
        totals=Totals(jobs={"ok": 1, name: 2}, earned={name: 7}),
        last_refusals=[RefusedJobStatus(reason=name, model_id=name, age_s=1.0, remedy=name)],
        running=[running, replace(running, id="02", tokens_per_second=None)],
        last_jobs=[ended, replace(ended, id="03", outcome=name, earned=None)],
        last_hour=[MinuteStatus(minutes_ago=2, jobs=2, failed=1, output_tokens=500, earned=7.0)],
    )


@asynccontextmanager
async def shown_state(browser: Browser, name: str, *, width: int = 1200) -> AsyncIterator[None]:
    async with status_server(busy_state(name)) as address:
        await browser.open(f"http://{address}/", width=width)
        await browser.wait_until("text('link').startsWith('Not connected')")
        yield


async def test_hostile_texts_are_shown_and_do_not_run(browser: Browser) -> None:
    async with shown_state(browser, HTML):
        for part in ("running", "jobs", "refusals", "backends", "models", "notices", "reasons"):
            assert HTML in await browser.evaluate(f"text('{part}')")
        assert await browser.evaluate("document.images.length") == 0
        assert await browser.evaluate("document.scripts.length") == 1
        assert await browser.evaluate("window.hacked === undefined")
        assert await browser.problems() == []


async def test_assigned_html_and_foreign_requests_are_blocked(browser: Browser) -> None:
    # The recorder of violations works, and the policy would stop what the page must never do.
    async with shown_state(browser, "m"):
        blocked = (
            "try { document.body.innerHTML = '<p>'; return 'ran'; } "
            "catch (error) { return error.name; }"
        )
        assert await browser.evaluate(f"(() => {{ {blocked} }})()") == "TypeError"
        await browser.evaluate("fetch('http://localhost:1/').catch(() => 0)")
        found = " ".join(await browser.evaluate("window.violations"))
        assert "require-trusted-types-for" in found
        assert "connect-src" in found


@pytest.mark.parametrize("name", [LONG, "m"])
async def test_page_fits_a_phone(name: str, browser: Browser) -> None:
    async with shown_state(browser, name, width=360):
        assert await browser.evaluate("document.documentElement.scrollWidth") == 360


CONTRAST = """
(() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = parse(color).map((value) => {
      const share = value / 255;
      return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const back = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if ((parse(color)[3] ?? 1) === 1) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const low = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
    if (!own || node.closest("noscript")) continue;
    const pair = [light(getComputedStyle(node).color), light(back(node))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < 4.5) low.push(`${node.tagName} ${node.className} ${ratio.toFixed(2)}`);
  }
  return low;
})()
"""


async def test_texts_have_contrast_in_light_and_dark(browser: Browser) -> None:
    async with shown_state(browser, "m"):
        colors = []
        for scheme in ("light", "dark"):
            await browser.prefer(color_scheme=scheme)
            colors.append(await browser.evaluate("getComputedStyle(document.body).backgroundColor"))
            assert await browser.evaluate(CONTRAST) == []
        assert colors[0] != colors[1]


async def test_keyboard_reaches_everything_with_a_visible_focus(browser: Browser) -> None:
    async with shown_state(browser, LONG, width=360):
        stops = []
        while True:
            await browser.press_tab()
            active = "document.activeElement"
            name = await browser.evaluate(
                f"{active}.getAttribute('aria-labelledby') ?? {active}.getAttribute('href')"
            )
            if name is None or name in stops:
                break
            style = await browser.evaluate(f"getComputedStyle({active}).outlineStyle")
            assert style == "solid", name
            stops.append(name)
        assert stops == [
            "#main",
            "running-title",
            "backends-title",
            "models-title",
            "jobs-title",
            "refusals-title",
            "notices-title",
            "status",
            "metrics",
        ]


UNNAMED = """
(() => {
  const unnamed = [];
  const named = (node) => {
    const by = node.getAttribute("aria-labelledby");
    return node.getAttribute("aria-label") || (by && document.getElementById(by).textContent);
  };
  for (const node of document.querySelectorAll("section, [role=group], svg, .reasons")) {
    if (!named(node)) unnamed.push(node.outerHTML.slice(0, 80));
  }
  for (const node of document.querySelectorAll("thead th, tbody th")) {
    if (!node.scope || !node.textContent) unnamed.push(node.outerHTML);
  }
  for (const row of document.querySelectorAll("tbody tr")) {
    if (row.querySelectorAll("th[scope=row]").length !== 1) unnamed.push(row.outerHTML);
  }
  return unnamed;
})()
"""


async def test_screen_reader_finds_landmarks_headings_and_names(browser: Browser) -> None:
    async with shown_state(browser, "m"):
        assert await browser.evaluate("document.documentElement.lang") == "en"
        assert await browser.evaluate("document.title") == "provider-agent"
        levels = "[...document.querySelectorAll('h1,h2,h3,h4,h5,h6')].map((one) => one.tagName)"
        assert await browser.evaluate(levels) == ["H1", *["H2"] * 8]
        landmarks = "[...document.querySelectorAll('body > *')].map((one) => one.tagName)"
        assert await browser.evaluate(landmarks) == ["A", "HEADER", "MAIN", "FOOTER"]
        assert await browser.evaluate(UNNAMED) == []
        ids = "[...document.querySelectorAll('[id]')].map((one) => one.id)"
        assert await browser.evaluate(f"new Set({ids}).size === {ids}.length")


async def test_only_changes_of_the_link_are_announced(browser: Browser) -> None:
    async with shown_state(browser, "m"):
        live = "[...document.querySelectorAll('[aria-live], [role=status], [role=alert]')]"
        assert await browser.evaluate(f"{live}.map((one) => one.id)") == ["link"]
        # The same link in the next states changes nothing in its element.
        await browser.evaluate(
            "(() => { window.changes = 0; new MutationObserver(() => { window.changes += 1; })"
            ".observe(document.getElementById('link'), { attributes: true, characterData: true, "
            "childList: true, subtree: true }); })()"
        )
        await browser.evaluate("document.getElementById('tiles').replaceChildren()")
        await browser.wait_until("text('tiles').includes('Running jobs')")
        assert await browser.evaluate("window.changes") == 0


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
            "[...document.querySelectorAll('#running td:last-child')].length === 3 && "
            "[...document.querySelectorAll('#running td:last-child')]"
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
