"""The status page shows every state to everyone, and runs nothing of what it shows."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace

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
from provider_agent.agent.telemetry.status import (
    BackendStatus,
    LedgerStatus,
    RefusedJobStatus,
    StatusSnapshot,
    Totals,
)
from tests.kit.browser import Browser
from tests.kit.cli_agent import READY, status_server

HTML = '<img src=x onerror="window.hacked = true"><script>window.hacked = true</script>'
LONG = "acme/" + "a-very-long-name-without-a-space-" * 6


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
        ledger=LedgerStatus(unwritten=1, problem=name, problem_age_s=75.0),
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
        for part in (
            "running",
            "jobs",
            "refusals",
            "backends",
            "models",
            "notices",
            "reasons",
            "facts",
        ):
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
