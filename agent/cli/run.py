"""`provider-agent run`: the service."""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from provider_agent.adapters.registry import KnownKinds
from provider_agent.agent.cli.early_signals import EarlySignals
from provider_agent.agent.cli.settings import (
    NO_BACKEND,
    SetupError,
    config_option,
    load_settings,
    start_logging,
)
from provider_agent.agent.config import ConfigError, LoadedConfig, load_config
from provider_agent.agent.config.addresses import shown_url
from provider_agent.agent.config.load import DEFAULT
from provider_agent.event_log import EventLogger

if TYPE_CHECKING:
    from provider_agent.agent.identity.key import Identity
    from provider_agent.agent.telemetry.traces.settings import TraceSettings

log = EventLogger(__name__)

REMAINING_TASKS_S: Final = 1.0
"""When the service stops, it cancels the tasks that adapters have left running, and waits this long
for their end."""


@click.command(short_help="Connect to the coordinator and serve jobs.")
@config_option
@click.option("--coordinator-url", help="Overrides [coordinator] url.")
@click.option("--allow-insecure", is_flag=True, default=None, help="Allow ws:// to other machines.")
@click.option("--key-path", help="Overrides [identity] key_path.")
@click.option("--max-concurrent", type=int, help="Overrides [limits] max_concurrent.")
@click.option("--drain-timeout", type=float, help="Overrides [limits] drain_timeout_s.")
@click.option(
    "--prometheus-addr", help="Overrides [observability] prometheus_addr; off disables it."
)
@click.option("--log-level", help="Overrides [observability] log_level.")
@click.option("--log-format", help="Overrides [observability] log_format: text or json.")
@click.option(
    "--replace",
    is_flag=True,
    help="Take over from a connected agent with the same key, which finishes its jobs and exits.",
)
@click.pass_obj
def run(early: EarlySignals, /, config_path: Path | None, replace: bool, **flags: object) -> None:
    """Connect to the coordinator and serve jobs until stopped.

    SIGTERM or Ctrl-C drains: no new jobs, running jobs finish. A second signal stops immediately.
    SIGHUP reloads the configuration; an invalid one is logged and ignored.

    \b
    Exit codes:
      0    stopped after a drain
      1    unexpected error
      2    configuration, identity or command line is wrong
      75   stopped after a drain, but not everything was delivered
      78   rejected for good, or the key is used by another agent
      130  stopped by a second signal
    """
    overrides = _overrides(flags)
    loaded = load_settings(config_path, overrides)
    secrets = start_logging(loaded)
    for warning in loaded.warnings:
        log.warning("configuration warning", note=warning)
    if not loaded.config.backends:
        log.warning("configuration warning", note=str(NO_BACKEND))
    # A reload reads the same file as the start, even if a file with a higher priority has appeared.
    reload = partial(load_config, loaded.path, os.environ, overrides, KnownKinds())
    sys.exit(_serve(_Start(loaded, reload, secrets, early, replace)))


def _overrides(flags: dict[str, object]) -> dict[str, object]:
    return {
        "coordinator.url": flags["coordinator_url"],
        "coordinator.allow_insecure": flags["allow_insecure"],
        "identity.key_path": flags["key_path"],
        "limits.max_concurrent": flags["max_concurrent"],
        "limits.drain_timeout_s": flags["drain_timeout"],
        "observability.prometheus_addr": flags["prometheus_addr"],
        "observability.log_level": flags["log_level"],
        "observability.log_format": flags["log_format"],
    }


class _Start(NamedTuple):
    """The inputs of the service.

    Attributes:
        loaded: the settings.
        reload: loads the settings again.
        secrets: values that the log redacts.
        early: signals that arrived before the service was ready.
        replace: whether to replace a connected agent with the same key.
    """

    loaded: LoadedConfig
    reload: Callable[[], LoadedConfig]
    secrets: set[str]
    early: EarlySignals
    replace: bool


def _serve(start: _Start) -> int:
    from provider_agent.agent.identity.key import IdentityError, load_or_create
    from provider_agent.agent.identity.key_lock import hold_key_lock
    from provider_agent.agent.telemetry.ledger import LedgerError
    from provider_agent.agent.telemetry.status_server import StatusServerError

    key_path = start.loaded.config.identity.key_path
    try:
        # At the default path, a missing key is normal before the first start.
        is_default = start.loaded.origins["identity.key_path"] == DEFAULT
        identity = load_or_create(key_path, warn=not is_default)
        with hold_key_lock(key_path), asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_main(start, identity))
    except (ConfigError, IdentityError, LedgerError, StatusServerError) as error:
        raise SetupError(str(error)) from error


async def _main(start: _Start, identity: "Identity") -> int:
    from provider_agent.agent.backends.configured import make_backends
    from provider_agent.agent.link.link_files import unusable_files
    from provider_agent.agent.reload.reloader import Reloader, log_skipped
    from provider_agent.agent.service import Service
    from provider_agent.agent.telemetry.systemd import ServiceManager
    from provider_agent.agent.version import agent_version

    config = start.loaded.config
    backends = make_backends(config.backends, os.environ)
    log_skipped(backends)
    service = Service(
        config, identity, backends, replace=start.replace, trace_settings=wanted_traces()
    )
    reloader = Reloader(
        service,
        start.reload,
        lambda new: unusable_files(new.coordinator),
        start.secrets,
        service.metrics.reloaded,
    )
    gc.freeze()  # a full garbage collection then visits what jobs allocate, not all modules
    gc.enable()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stop)
    loop.add_signal_handler(signal.SIGHUP, reloader.request)
    if start.early.reload_requested:
        reloader.request()
    facts: dict[str, object] = {
        "version": agent_version(),
        "config": start.loaded.path,
        "identity": identity.fingerprint,
        "backends": len(backends.usable),
        "coordinator": shown_url(config.coordinator.url),
    }
    log.info("starting", **facts)
    background_tasks = [
        asyncio.create_task(reloader.run(), name="reload"),
        asyncio.create_task(
            ServiceManager(os.environ).run(service.status, service.changed), name="systemd"
        ),
    ]
    for task in background_tasks:
        task.add_done_callback(log_failed_task)
    try:
        code = await service.run()
    finally:
        for task in background_tasks:
            task.cancel()
        await asyncio.gather(*background_tasks, return_exceptions=True)
    tasks_remain = await _cancel_remaining_tasks()
    log.info("stopped", exit_code=code)
    if tasks_remain:
        # Closing the event loop would wait forever for the remaining tasks.
        logging.shutdown()
        os._exit(code)
    return code


def wanted_traces() -> "TraceSettings | None":
    """Return how to export traces; log a problem and go on without them."""
    from provider_agent.agent.telemetry.traces.settings import TraceSettingsError, trace_settings

    try:
        return trace_settings(os.environ)
    except TraceSettingsError as error:
        log.warning("traces off", reason=error.problem, what_to_do=error.advice)
        return None


async def _cancel_remaining_tasks() -> bool:
    """Cancel the tasks that adapters have left running; return whether one of them still runs."""
    remaining = asyncio.all_tasks() - {asyncio.current_task()}
    for task in remaining:
        task.cancel()
    if remaining:
        _, remaining = await asyncio.wait(remaining, timeout=REMAINING_TASKS_S)
    if remaining:
        log.error("tasks still running", tasks=sorted(task.get_name() for task in remaining))
    return bool(remaining)


def log_failed_task(task: asyncio.Task[None]) -> None:
    """Log the failure of a background task; the service continues without it."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.failure("background task failed", error, task=task.get_name())


def _loop_factory() -> "type[asyncio.AbstractEventLoop] | None":
    """Return uvloop's event loop, if installed: it needs less than half the CPU time per event."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop
