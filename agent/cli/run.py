"""`provider-agent run`: the service."""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import click

from agent.cli.early_signals import EarlySignals
from agent.cli.settings import SetupProblem, config_option, load_settings, start_logging
from agent.config import LoadedConfig

log = logging.getLogger("provider_agent.run")


@click.command(short_help="Connect to the coordinator and serve jobs.")
@config_option
@click.option("--coordinator-url", help="Overrides [coordinator] url.")
@click.option("--allow-insecure", is_flag=True, default=None, help="Let ws:// leave this machine.")
@click.option("--key-path", help="Overrides [identity] key_path.")
@click.option("--max-concurrent", type=int, help="Overrides [limits] max_concurrent.")
@click.option("--drain-timeout", type=float, help="Overrides [limits] drain_timeout_s.")
@click.option("--prometheus-addr", help='Overrides [observability] prometheus_addr; "" is off.')
@click.option("--log-level", help="Overrides [observability] log_level.")
@click.option("--log-format", help="Overrides [observability] log_format: text or json.")
@click.pass_obj
def run(early: EarlySignals, /, config_path: Path | None, **flags: object) -> None:
    """Connect to the coordinator and serve jobs until told to stop.

    SIGTERM or Ctrl-C drains: no new jobs, running ones finish. A second one stops at once.
    SIGHUP reads the configuration again; what is wrong there changes nothing.

    \b
    Exit codes:
      0    stopped as asked
      1    something unexpected
      2    configuration, identity or command line wrong
      78   the coordinator will not have this agent
      130  stopped by a second signal
    """
    loaded = load_settings(config_path, _overrides(flags))
    start_logging(loaded)
    for warning in loaded.warnings:
        log.warning("configuration", extra={"fields": {"note": warning}})
    sys.exit(_serve(loaded, early))


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


def _serve(loaded: LoadedConfig, early: EarlySignals) -> int:  # noqa: ARG001
    from agent.identity import IdentityError, load_or_create
    from agent.telemetry.status_server import StatusServerError

    try:
        identity = load_or_create(loaded.config.identity.key_path)
    except IdentityError as error:
        raise SetupProblem(str(error)) from error

    async def main() -> int:
        from agent.backends import make_backends
        from agent.service import Service
        from agent.version import agent_version

        backends = make_backends(loaded.config.backends, os.environ)
        for skipped in backends.skipped:
            fields = {"backend": skipped.backend_id, "reason": skipped.reason}
            log.warning("backend skipped", extra={"fields": fields})
        service = Service(loaded.config, identity, backends)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, service.stop)
        facts: dict[str, object] = {
            "version": agent_version(),
            "config": str(loaded.path),
            "identity": identity.fingerprint,
            "backends": len(backends.usable),
            "coordinator": loaded.config.coordinator.url,
        }
        log.info("starting", extra={"fields": facts})
        code = await service.run()
        log.info("stopped", extra={"fields": {"exit_code": code}})
        return code

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(main())
    except StatusServerError as error:
        raise SetupProblem(str(error)) from error


def _loop_factory() -> "type[asyncio.AbstractEventLoop] | None":
    """The event loop of uvloop where there is one: less than half the CPU per event."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.Loop
