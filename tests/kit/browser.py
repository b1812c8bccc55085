"""Headless Chromium for tests of web pages, driven by Selenium."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys

_OPTIONS: Final = (
    "--headless",
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
    "--hide-scrollbars",
)

_WAIT_S: Final = 20.0

_RECORD_VIOLATIONS: Final = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
"""

_TEXT: Final = "const text = (id) => document.getElementById(id).textContent;"

_WAIT_UNTIL: Final = """
const done = arguments[0];
%s
const holds = () => { try { return %s; } catch { return false; } };
if (holds()) done(true);
const observer = new MutationObserver(() => {
  if (holds()) { observer.disconnect(); done(true); }
});
observer.observe(document, {
  attributes: true, characterData: true, childList: true, subtree: true,
});
"""


class Browser:
    """One tab. Its calls run in threads, because the pages' server is in the test's event loop."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    async def open(self, url: str, *, width: int = 1200, height: int = 900) -> None:
        """Open a page in light colors."""
        await self.resize(width, height)
        await self.prefer(color_scheme="light")
        await asyncio.to_thread(self._driver.get, url)

    async def resize(self, width: int, height: int) -> None:
        await self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    async def prefer(self, *, color_scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": color_scheme}
        await self._command("Emulation.setEmulatedMedia", features=[feature])

    async def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; `text(id)` is an element's text."""
        script = f"{_TEXT} return ({expression.strip()});"
        return await asyncio.to_thread(self._driver.execute_script, script)

    async def wait_until(self, condition: str) -> None:
        """Wait until a JavaScript expression is true; it is evaluated when the page changes."""
        script = _WAIT_UNTIL % (_TEXT, condition)
        try:
            await asyncio.to_thread(self._driver.execute_async_script, script)
        except TimeoutException:
            shown = await self.evaluate("document.body.innerText")
            pytest.fail(f"not within {_WAIT_S:.0f} s: {condition}\nThe page shows:\n{shown}")

    async def press_tab(self) -> None:
        await asyncio.to_thread(lambda: self._driver.switch_to.active_element.send_keys(Keys.TAB))

    async def screenshot(self, path: Path) -> None:
        await asyncio.to_thread(self._driver.save_screenshot, str(path))

    async def problems(self) -> list[str]:
        """Return violations of the content security policy, and errors in the console."""
        entries = await asyncio.to_thread(self._driver.get_log, "browser")
        errors = [entry["message"] for entry in entries if entry["level"] == "SEVERE"]
        return [*await self.evaluate("window.violations"), *errors]

    async def leave(self) -> None:
        """Close the page, and forget its messages."""
        await asyncio.to_thread(self._driver.get, "about:blank")
        await asyncio.to_thread(self._driver.get_log, "browser")

    async def _command(self, name: str, **parameters: object) -> None:
        await asyncio.to_thread(self._driver.execute_cdp_cmd, name, parameters)


@contextmanager
def start_browser(profile: Path) -> Iterator[Browser]:
    """Run Chromium with an empty profile; skip the test without Chromium or its driver."""
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if programs[0] is None or programs[1] is None:
        pytest.skip("chromium and chromedriver are not on PATH (Debian: chromium-driver)")
    options = Options()
    options.binary_location = programs[0]
    for option in (*_OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # With the path of the driver, Selenium downloads none.
    driver = webdriver.Chrome(options=options, service=Service(programs[1]))
    try:
        driver.set_script_timeout(_WAIT_S)
        driver.set_page_load_timeout(_WAIT_S)
        source = {"source": _RECORD_VIOLATIONS}
        driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", source)
        yield Browser(driver)
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with start_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
async def browser(chromium: Browser) -> AsyncIterator[Browser]:
    yield chromium
    await chromium.leave()
