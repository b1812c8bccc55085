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
from provider_agent.agent.telemetry.metrics import ReloadResult
from tests.kit.agent_config import agent_config

NOT_RELOADED = "configuration not reloaded"
URL = "wss://a.example/x"


class FakeService:
    """Accepts all settings, or fails.

    Attributes:
        applied: the arguments of each successful `reload`.
        result: what `reload` returns or raises; None: a default.
    """

    def __init__(self) -> None:
        self.stopping = False
        self.backends = Backends([], {}, [])
        self.busy_ids: frozenset[str] = frozenset()
        self.applied: list[tuple[Config, Backends]] = []
        self.result: Reload | Exception | None = None

    def reload(self, config: Config, backends: Backends) -> Reload:
        if isinstance(self.result, Exception):
            raise self.result
        self.applied.append((config, backends))
        self.backends = backends
        return self.result or Reload(config, ("backends",))


class ReloaderHarness:
    """A reloader with a fake service and prepared configurations.

    Attributes:
        results: what each load returns or raises.
        unusable: the error texts for files that the next connection needs and cannot use.
        load_count: the number of loads.
        reloads: the results of the reloads.
        gate: a load waits until it is set.
    """

    def __init__(self) -> None:
        self.service = FakeService()
        self.secrets: set[str] = set()
        self.results: list[LoadedConfig | Exception] = []
        self.unusable: list[str] = []
        self.load_count = 0
        self.gate = threading.Event()
        self.gate.set()
        self.reloads: list[ReloadResult] = []
        self.reloader = Reloader(
            self.service, self._load, lambda _: self.unusable, self.secrets, self.reloads.append
        )

    def _load(self) -> LoadedConfig:
        self.gate.wait(10)
        self.load_count += 1
        result = self.results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.reloader.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class RecordingHandler(logging.Handler):
    """Records each event with its fields."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[str, object]] = []
        self._recorded = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append((record.getMessage(), getattr(record, "fields", None)))
        self._recorded.set()

    async def wait_for(self, event: str, times: int = 1) -> None:
        while [name for name, _ in self.records].count(event) < times:
            self._recorded.clear()
            await self._recorded.wait()


@pytest.fixture
def log() -> Iterator[RecordingHandler]:
    handler = RecordingHandler()
    logger = logging.getLogger("provider_agent")
    logger.addHandler(handler)
    logger.setLevel("INFO")
    yield handler
    logger.removeHandler(handler)


def loaded_config(
    *backends: BackendConfig, code: str | None = None, warning: str = ""
) -> LoadedConfig:
    coordinator = CoordinatorConfig(url=URL, enrollment_code=code)
    config = agent_config(URL, backends=backends, coordinator=coordinator)
    return LoadedConfig(config, {}, None, (warning,) if warning else ())


async def test_new_settings_are_applied_and_their_effects_logged(log: RecordingHandler) -> None:
    harness = ReloaderHarness()
    new = loaded_config(BackendConfig(kind="echo"))
    harness.results = [new]
    harness.service.result = Reload(
        new.config, ("backends",), ("coordinator.url",), ("identity.key_path",)
    )
    async with harness.running():
        harness.reloader.request()
        await log.wait_for("configuration reloaded")

    ((config, backends),) = harness.service.applied
    assert config is new.config
    assert [one.id for one in backends.usable] == ["echo"]
    assert log.records == [
        (
            "configuration reloaded",
            {
                "applied": ("backends",),
                "next_connection": ("coordinator.url",),
                "needs_restart": ("identity.key_path",),
            },
        )
    ]


async def test_unchanged_settings_are_logged_as_unchanged(log: RecordingHandler) -> None:
    harness = ReloaderHarness()
    harness.results = [loaded_config()]
    harness.service.result = Reload(loaded_config().config)
    async with harness.running():
        harness.reloader.request()
        await log.wait_for("configuration unchanged")

    assert log.records == [("configuration unchanged", {})]
    assert harness.reloads == ["unchanged"]


TOO_SMALL = "agent.toml: limits.max_concurrent: expected a whole number >= 1"


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (ConfigError(TOO_SMALL), TOO_SMALL),
        # The adapter's package was removed while the agent ran.
        (
            loaded_config(BackendConfig(kind="gone")),
            "backends[0].kind: no adapter of kind 'gone' is installed",
        ),
    ],
)
async def test_invalid_settings_are_logged_and_change_nothing(
    result: LoadedConfig | ConfigError, reason: str, log: RecordingHandler
) -> None:
    harness = ReloaderHarness()
    harness.results = [result, loaded_config()]
    async with harness.running():
        harness.reloader.request()
        await log.wait_for(NOT_RELOADED)
        assert harness.service.applied == []
        assert log.records == [(NOT_RELOADED, {"reason": reason})]
        harness.reloader.request()
        await log.wait_for("configuration reloaded")
    assert harness.reloads == ["failed", "applied"]


@pytest.mark.parametrize("where", ["load", "service"])
async def test_unexpected_exception_changes_nothing_and_the_next_reload_works(
    where: str, log: RecordingHandler
) -> None:
    harness = ReloaderHarness()
    harness.results = [loaded_config(), loaded_config()]
    if where == "load":
        harness.results[0] = RuntimeError("a defect")
    else:
        harness.service.result = RuntimeError("a defect")
    async with harness.running():
        harness.reloader.request()
        await log.wait_for(NOT_RELOADED)
        assert harness.service.applied == []
        harness.service.result = None
        harness.reloader.request()
        await log.wait_for("configuration reloaded")
    assert harness.reloads == ["failed", "applied"]


async def test_requests_during_a_reload_cause_one_more_reload(log: RecordingHandler) -> None:
    harness = ReloaderHarness()
    harness.results = [loaded_config(), loaded_config(), loaded_config()]
    harness.gate.clear()
    async with harness.running():
        harness.reloader.request()
        await asyncio.sleep(0)
        for _ in range(5):
            harness.reloader.request()
        harness.gate.set()
        await log.wait_for("configuration reloaded", times=2)
        assert harness.load_count == 2


async def test_stopping_agent_applies_no_settings(log: RecordingHandler) -> None:
    harness = ReloaderHarness()
    harness.results = [loaded_config(BackendConfig(kind="echo"))]
    harness.gate.clear()
    async with harness.running():
        harness.reloader.request()
        await asyncio.sleep(0)
        harness.service.stopping = True
        harness.gate.set()
        await log.wait_for(NOT_RELOADED)

    assert harness.service.applied == []
    assert log.records == [(NOT_RELOADED, {"reason": "the agent is stopping"})]


async def test_warnings_are_logged_before_the_summary(
    tmp_path: Path, log: RecordingHandler
) -> None:
    harness = ReloaderHarness()
    no_key = BackendConfig(kind="venice", api_key_file=tmp_path / "none")
    harness.results = [loaded_config(no_key, warning="did you mean …?")]
    harness.unusable = ["[coordinator] token_file t: it does not hold a token"]
    async with harness.running():
        harness.reloader.request()
        await log.wait_for("configuration reloaded")

    (_, backends) = harness.service.applied[0]
    assert [type(one) for one in backends.skipped] == [SkippedBackend]
    assert [name for name, _ in log.records] == [
        "configuration warning",
        "configuration warning",
        "backend skipped",
        "configuration reloaded",
    ]


async def test_new_secrets_are_registered_even_if_the_reload_fails(
    tmp_path: Path, log: RecordingHandler
) -> None:
    key = tmp_path / "key"
    key.write_text("sk-new-key\n", "utf-8")
    harness = ReloaderHarness()
    harness.secrets.add("old")
    harness.results = [
        loaded_config(BackendConfig(kind="venice", api_key_file=key), code="new-code")
    ]
    harness.service.result = RuntimeError("a defect")
    async with harness.running():
        harness.reloader.request()
        await log.wait_for(NOT_RELOADED)

    assert harness.secrets == {"old", "sk-new-key", "new-code"}


async def test_log_level_takes_effect_at_once(log: RecordingHandler) -> None:
    harness = ReloaderHarness()
    info = loaded_config(warning="a word")
    observability = ObservabilityConfig(log_level="warning")
    quiet = structs.replace(info.config, observability=observability)
    harness.results = [LoadedConfig(quiet, {}, None, ("a word",)), info]
    async with harness.running():
        harness.reloader.request()
        await log.wait_for("configuration warning")
        harness.reloader.request()
        await log.wait_for("configuration reloaded")
    # The first "configuration reloaded" has the level "info" and is therefore not logged.
    assert [name for name, _ in log.records] == ["configuration warning"] * 2 + [
        "configuration reloaded"
    ]
