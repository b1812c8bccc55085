"""Reads the settings again while the agent runs, because of SIGHUP."""

import asyncio
import os
from collections.abc import Callable, Collection
from typing import Protocol

from provider_agent.agent.backends.configured import Backends, make_backends
from provider_agent.agent.config import Config, ConfigError, LoadedConfig, secret_values
from provider_agent.agent.reload.effects import Reload
from provider_agent.agent.telemetry.logs import set_level
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)


class Reloadable(Protocol):
    """The running agent."""

    @property
    def stopping(self) -> bool:
        """Whether it has been told to stop."""
        ...

    @property
    def backends(self) -> Backends:
        """Those in use."""
        ...

    @property
    def busy_ids(self) -> Collection[str]:
        """Ids of backends under which jobs run, in use or not."""
        ...

    def reload(self, config: Config, backends: Backends) -> Reload:
        """Take over new settings."""
        ...


class Reloader:
    """Takes over what the operator has changed, or keeps everything and says what is wrong.

    Args:
        service: the running agent.
        load: reads and checks all settings, as at the start.
        unusable_files: what is wrong with the files that are read at the next connection.
        secrets: what no line of the log may hold; new secrets are added.
    """

    def __init__(
        self,
        service: Reloadable,
        load: Callable[[], LoadedConfig],
        unusable_files: Callable[[Config], Collection[str]],
        secrets: set[str],
    ) -> None:
        self._service = service
        self._load = load
        self._unusable_files = unusable_files
        self._secrets = secrets
        self._asked = asyncio.Event()

    def request(self) -> None:
        """Have the settings read again soon; called while that is being done, it is done again."""
        self._asked.set()

    async def run(self) -> None:
        """Do what is asked, one after the other, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self._reload()

    async def _reload(self) -> None:
        try:
            # In a thread: the files may be many and slow, and streams go on meanwhile.
            loaded, unusable = await asyncio.to_thread(self._read)
            if self._service.stopping:
                _refused("the agent is stopping")
                return
            # Before anything is logged that might hold one.
            self._secrets |= secret_values(loaded.config, os.environ)
            backends = make_backends(
                loaded.config.backends,
                os.environ,
                before=self._service.backends,
                busy_ids=self._service.busy_ids,
            )
            done = self._service.reload(loaded.config, backends)
        except ConfigError as error:
            _refused(str(error))
        except Exception:
            # An adapter of a third party may refuse its settings in its own way.
            log.exception("configuration not reloaded: the old settings stay in force")
        else:
            set_level(done.config.observability.log_level)
            _tell(loaded, backends, unusable, done)

    def _read(self) -> tuple[LoadedConfig, Collection[str]]:
        loaded = self._load()
        return loaded, self._unusable_files(loaded.config)


def _refused(reason: str) -> None:
    log.error(
        "configuration not reloaded: the old settings stay in force",
        reason=reason,
    )


def _tell(
    loaded: LoadedConfig, backends: Backends, unusable: Collection[str], done: Reload
) -> None:
    for note in (*loaded.warnings, *unusable):
        log.warning("configuration warning", note=note)
    log_skipped(backends)
    if done.changes_nothing:
        log.info("configuration unchanged")
        return
    fields: dict[str, object] = {
        "applied": done.applied,
        "next_connection": done.next_connection,
        "needs_restart": done.needs_restart,
    }
    log.info("configuration reloaded", **fields)


def log_skipped(backends: Backends) -> None:
    """Log what is configured and not used."""
    for skipped in backends.skipped:
        fields = {"backend": skipped.backend_id, "reason": skipped.reason}
        log.warning("backend skipped", **fields)
