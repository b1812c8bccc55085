"""Reloads the configuration of a running agent on request, as after SIGHUP."""

import asyncio
import os
from collections.abc import Callable, Collection
from typing import Protocol

from provider_agent.agent.backends.configured import Backends, make_backends
from provider_agent.agent.config import Config, ConfigError, LoadedConfig, secret_values
from provider_agent.agent.reload.effects import Reload
from provider_agent.agent.telemetry.logs import set_level
from provider_agent.agent.telemetry.metrics import ReloadResult
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)


class Reloadable(Protocol):
    """A running agent."""

    @property
    def stopping(self) -> bool:
        """Whether the agent is draining or stopping."""
        ...

    @property
    def backends(self) -> Backends:
        """The configured backends."""
        ...

    @property
    def busy_ids(self) -> Collection[str]:
        """Ids of the backends with running jobs, removed ones included."""
        ...

    def reload(self, config: Config, backends: Backends) -> Reload:
        """Apply new settings."""
        ...


class Reloader:
    """Loads the configuration and applies it; if it is invalid, logs why and changes nothing.

    Args:
        service: the running agent.
        load: loads and checks all settings, as at the start.
        unusable_files: returns error texts for the files that the next connection will need.
        secrets: the values that logs redact; new secrets are added.
        on_reload: called with the result of each reload.
    """

    def __init__(
        self,
        service: Reloadable,
        load: Callable[[], LoadedConfig],
        unusable_files: Callable[[Config], Collection[str]],
        secrets: set[str],
        on_reload: Callable[[ReloadResult], None],
    ) -> None:
        self._on_reload = on_reload
        self._service = service
        self._load = load
        self._unusable_files = unusable_files
        self._secrets = secrets
        self._requested = asyncio.Event()

    def request(self) -> None:
        """Reload soon. Any number of requests during a reload cause one more reload after it."""
        self._requested.set()

    async def run(self) -> None:
        """Reload on each request, until cancelled."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            self._on_reload(await self._reload())

    async def _reload(self) -> ReloadResult:
        try:
            # In a thread: slow files must not delay running streams.
            loaded, unusable = await asyncio.to_thread(self._read)
            if self._service.stopping:
                _log_refused("the agent is stopping")
                return ReloadResult.FAILED
            # Before the new secrets are used, so that no log line can contain them.
            self._secrets |= secret_values(loaded.config, os.environ)
            backends = make_backends(
                loaded.config.backends,
                os.environ,
                before=self._service.backends,
                busy_ids=self._service.busy_ids,
            )
            result = self._service.reload(loaded.config, backends)
        except ConfigError as error:
            _log_refused(str(error))
        except Exception:
            # A defect must not end the agent, nor prevent later reloads.
            log.exception("configuration not reloaded")
        else:
            set_level(result.config.observability.log_level)
            _log_result(loaded, backends, unusable, result)
            return ReloadResult.UNCHANGED if result.changes_nothing else ReloadResult.APPLIED
        return ReloadResult.FAILED

    def _read(self) -> tuple[LoadedConfig, Collection[str]]:
        loaded = self._load()
        return loaded, self._unusable_files(loaded.config)


def log_skipped(backends: Backends) -> None:
    """Log the configured backends that are not used."""
    for skipped in backends.skipped:
        log.warning("backend skipped", backend=skipped.backend_id, reason=skipped.reason)


def _log_refused(reason: str) -> None:
    log.error("configuration not reloaded", reason=reason)


def _log_result(
    loaded: LoadedConfig, backends: Backends, unusable: Collection[str], result: Reload
) -> None:
    for note in (*loaded.warnings, *unusable):
        log.warning("configuration warning", note=note)
    log_skipped(backends)
    if result.changes_nothing:
        log.info("configuration unchanged")
        return
    log.info(
        "configuration reloaded",
        applied=result.applied,
        next_connection=result.next_connection,
        needs_restart=result.needs_restart,
    )
