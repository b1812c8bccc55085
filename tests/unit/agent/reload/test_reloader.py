import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from msgspec import structs

from provider_agent.agent.backends.configured import Backends, SkippedBackend
from provider_agent.agent.config import (
    BackendConfig,
    Config,
    ConfigError,
    CoordinatorConfig,
    LoadedConfig,
    ObservabilityConfig,
)
from provider_agent.agent.reload.effects import Reload
from provider_agent.agent.reload.reloader import Reloader
from tests.kit.agent_config import agent_config

KEPT = "configuration not reloaded: the old settings stay in force"
URL = "wss://a.example/x"


class Agent:
    """Takes over whatever it is given."""

    def __init__(self) -> None:
        self.stopping = False
        self.backends = Backends([], {}, [])
        self.busy_ids: frozenset[str] = frozenset()
        self.given: list[tuple[Config, Backends]] = []
        self.says: Reload | Exception | None = None

    def reload(self, config: Config, backends: Backends) -> Reload:
        if isinstance(self.says, Exception):
            raise self.says
        self.given.append((config, backends))
        self.backends = backends
        return self.says or Reload(config, ("backends",))


class Desk:
    """A reloader at work, what it reads, and what it says."""

    def __init__(self) -> None:
        self.agent = Agent()
        self.secrets: set[str] = set()
        self.loads: list[LoadedConfig | Exception] = []
        self.unusable: list[str] = []
        self.loaded = 0
        self.gate = threading.Event()
        self.gate.set()
        self.reloader = Reloader(self.agent, self._load, lambda _: self.unusable, self.secrets)

    def _load(self) -> LoadedConfig:
        self.gate.wait(10)
        self.loaded += 1
        found = self.loads.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.reloader.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Lines(logging.Handler):
    """What was logged, as an event and its fields."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, object]] = []
        self._more = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.getMessage(), getattr(record, "fields", None)))
        self._more.set()

    async def until(self, event: str, times: int = 1) -> None:
        while [name for name, _ in self.lines].count(event) < times:
            self._more.clear()
            await self._more.wait()


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    logger = logging.getLogger("provider_agent")
    logger.addHandler(handler)
    logger.setLevel("INFO")
    yield handler
    logger.removeHandler(handler)


def loaded(*backends: BackendConfig, code: str | None = None, warning: str = "") -> LoadedConfig:
    coordinator = CoordinatorConfig(url=URL, enrollment_code=code)
    config = agent_config(URL, backends=backends, coordinator=coordinator)
    return LoadedConfig(config, {}, None, (warning,) if warning else ())


async def test_new_settings_go_to_the_agent_and_the_log_says_what_they_mean(lines: Lines) -> None:
    desk = Desk()
    new = loaded(BackendConfig(kind="echo"))
    desk.loads = [new]
    desk.agent.says = Reload(
        new.config, ("backends",), ("coordinator.url",), ("identity.key_path",)
    )
    async with desk.at_work():
        desk.reloader.request()
        await lines.until("configuration reloaded")

    ((config, backends),) = desk.agent.given
    assert config is new.config
    assert [one.id for one in backends.usable] == ["echo"]
    assert lines.lines == [
        (
            "configuration reloaded",
            {
                "applied": ("backends",),
                "next_connection": ("coordinator.url",),
                "needs_restart": ("identity.key_path",),
            },
        )
    ]


async def test_nothing_new_is_said_to_be_nothing_new(lines: Lines) -> None:
    desk = Desk()
    desk.loads = [loaded()]
    desk.agent.says = Reload(loaded().config)
    async with desk.at_work():
        desk.reloader.request()
        await lines.until("configuration unchanged")

    assert lines.lines == [("configuration unchanged", {})]


async def test_what_is_wrong_is_said_in_one_line_and_nothing_changes(lines: Lines) -> None:
    desk = Desk()
    wrong = ConfigError("agent.toml: limits.max_concurrent: expected a whole number >= 1")
    desk.loads = [wrong, loaded()]
    async with desk.at_work():
        desk.reloader.request()
        await lines.until(KEPT)
        assert desk.agent.given == []
        assert lines.lines == [(KEPT, {"reason": str(wrong)})]
        desk.reloader.request()
        await lines.until("configuration reloaded")


@pytest.mark.parametrize("where", ["load", "agent", "adapter"])
async def test_a_defect_changes_nothing_and_the_next_time_works(where: str, lines: Lines) -> None:
    desk = Desk()
    desk.loads = [loaded(), loaded()]
    if where == "load":
        desk.loads[0] = RuntimeError("a defect")
    elif where == "agent":
        desk.agent.says = RuntimeError("a defect")
    else:
        desk.loads[0] = loaded(BackendConfig(kind="gone"))
    async with desk.at_work():
        desk.reloader.request()
        await lines.until(KEPT)
        assert desk.agent.given == []
        desk.agent.says = None
        desk.reloader.request()
        await lines.until("configuration reloaded")


async def test_while_one_is_done_any_number_more_is_one_more_after_it(lines: Lines) -> None:
    desk = Desk()
    desk.loads = [loaded(), loaded(), loaded()]
    desk.gate.clear()
    async with desk.at_work():
        desk.reloader.request()
        await asyncio.sleep(0)
        for _ in range(5):
            desk.reloader.request()
        desk.gate.set()
        await lines.until("configuration reloaded", times=2)
        assert desk.loaded == 2


async def test_an_agent_that_stops_takes_nothing_over(lines: Lines) -> None:
    desk = Desk()
    desk.loads = [loaded(BackendConfig(kind="echo"))]
    desk.gate.clear()
    async with desk.at_work():
        desk.reloader.request()
        await asyncio.sleep(0)
        desk.agent.stopping = True
        desk.gate.set()
        await lines.until(KEPT)

    assert desk.agent.given == []
    assert lines.lines == [(KEPT, {"reason": "the agent is stopping"})]


async def test_what_the_operator_should_know_is_said_before_the_summary(
    tmp_path: Path, lines: Lines
) -> None:
    desk = Desk()
    no_key = BackendConfig(kind="venice", api_key_file=tmp_path / "none")
    desk.loads = [loaded(no_key, warning="did you mean …?")]
    desk.unusable = ["[coordinator] token_file t: it does not hold what it should"]
    async with desk.at_work():
        desk.reloader.request()
        await lines.until("configuration reloaded")

    (_, backends) = desk.agent.given[0]
    assert [type(one) for one in backends.skipped] == [SkippedBackend]
    assert [name for name, _ in lines.lines] == [
        "configuration warning",
        "configuration warning",
        "backend skipped",
        "configuration reloaded",
    ]


async def test_new_secrets_are_known_before_anything_is_said(tmp_path: Path, lines: Lines) -> None:
    key = tmp_path / "key"
    key.write_text("sk-new-key\n", "utf-8")
    desk = Desk()
    desk.secrets.add("old")
    desk.loads = [loaded(BackendConfig(kind="venice", api_key_file=key), code="new-code")]
    desk.agent.says = RuntimeError("a defect")
    async with desk.at_work():
        desk.reloader.request()
        await lines.until(KEPT)

    assert desk.secrets == {"old", "sk-new-key", "new-code"}


async def test_the_log_level_is_in_force_at_once(lines: Lines) -> None:
    desk = Desk()
    old = loaded(warning="a word").config
    quiet = structs.replace(old, observability=ObservabilityConfig(log_level="warning"))
    desk.loads = [LoadedConfig(quiet, {}, None, ("a word",)), loaded(warning="a word")]
    async with desk.at_work():
        desk.reloader.request()
        await lines.until("configuration warning")
        desk.reloader.request()
        await lines.until("configuration reloaded")
    assert [name for name, _ in lines.lines] == ["configuration warning"] * 2 + [
        "configuration reloaded"
    ]
