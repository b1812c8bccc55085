"""The `provider-agent` command. Each subcommand has its own module, imported when it is used."""

import io
import sys
from importlib import import_module
from typing import Final

import click

from provider_agent.agent.cli.early_signals import EarlySignals
from provider_agent.agent.version import agent_version

_COMMANDS: Final = {
    "run": ("provider_agent.agent.cli.run", "run"),
    "check": ("provider_agent.agent.cli.check.command", "check"),
    "models": ("provider_agent.agent.cli.models", "models"),
    "ask": ("provider_agent.agent.cli.ask", "ask"),
    "demo": ("provider_agent.agent.cli.demo.command", "demo"),
    "identity": ("provider_agent.agent.cli.identity", "identity"),
    "config": ("provider_agent.agent.cli.config", "config"),
    "status": ("provider_agent.agent.cli.status", "status"),
    "health": ("provider_agent.agent.cli.health", "health"),
    "coordinator": ("provider_agent.coordinator.command", "command"),
    "conformance": ("provider_agent.agent.cli.conformance", "conformance"),
    "version": ("provider_agent.agent.cli.version", "version"),
}

EXIT_INTERRUPTED: Final = 130
"""The exit code of Ctrl-C. `run`, which drains, and `demo --serve` exit with their own codes."""


class _LazyGroup(click.Group):
    """Imports a subcommand only when it is used, so that `run` does not import the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # As a shell does; click itself would print "Aborted!" and exit with 1.
            click.echo(err=True)
            ctx.exit(EXIT_INTERRUPTED)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[:1] == ["run"]:
            # Before the imports of `run`, which take most of the start-up time.
            ctx.obj = ctx.with_resource(EarlySignals())
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name]
        found: click.Command = getattr(import_module(module), name)
        return found


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(agent_version(), prog_name="provider-agent")
def main() -> None:
    """Serve a coordinator's jobs with your own inference servers.

    The agent dials the coordinator, offers the models of your servers, runs each job on a server
    that supports the job's wire format, and relays the response byte for byte.

    \b
    First steps:
      provider-agent demo        try coordinator, agent and server on this machine
      provider-agent check       test your configuration, coordinator and servers
      provider-agent run         start serving jobs
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Print "?" for a character that the terminal's encoding lacks, instead of failing.
            stream.reconfigure(errors="replace")


if __name__ == "__main__":
    main()
