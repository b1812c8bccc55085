"""The `provider-agent` command. Each subcommand has its own module, imported when it is used."""

import gc
import io
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from provider_agent.agent.cli.early_signals import EarlySignals

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class _Command(NamedTuple):
    """Where a subcommand is defined, and its line in the help, for which it is not imported."""

    module: str
    name: str
    summary: str


_CLI: Final = "provider_agent.agent.cli"
_SECTIONS: Final = {
    "First steps": {
        "demo": _Command(
            f"{_CLI}.demo.command", "demo", "Try coordinator, agent and server on this machine."
        ),
        "init": _Command(f"{_CLI}.init.command", "init", "Find your servers and write agent.toml."),
        "setup": _Command(
            f"{_CLI}.setup.command", "setup", "Pair with the Use Pod marketplace; write agent.toml."
        ),
        "check": _Command(
            f"{_CLI}.check.command", "check", "Test configuration, coordinator and backends."
        ),
        "run": _Command(f"{_CLI}.run", "run", "Connect to the coordinator and serve jobs."),
        "service": _Command(
            f"{_CLI}.service.command",
            "service",
            "Run the agent as a service of systemd or launchd.",
        ),
    },
    "The running agent": {
        "status": _Command(f"{_CLI}.status", "status", "Print the state of the running agent."),
        "pause": _Command(f"{_CLI}.pause", "pause", "Stop serving for a while, without a restart."),
        "resume": _Command(f"{_CLI}.pause", "resume", "End a pause."),
        "earnings": _Command(
            f"{_CLI}.earnings", "earnings", "Sum up the earnings by day and model."
        ),
        "ledger": _Command(
            f"{_CLI}.ledger", "ledger", "Sum up or export the ledger of ended jobs."
        ),
        "health": _Command(f"{_CLI}.health", "health", "Check whether the running agent is alive."),
    },
    "Servers, settings and key": {
        "models": _Command(
            f"{_CLI}.models", "models", "List the models that would be offered now."
        ),
        "ask": _Command(f"{_CLI}.ask", "ask", "Run one job on your backends and print its text."),
        "config": _Command(f"{_CLI}.config", "config", "Print the configuration, or an example."),
        "identity": _Command(
            f"{_CLI}.identity",
            "identity",
            "Print the public key; create the key if it does not exist.",
        ),
        "enroll": _Command(
            f"{_CLI}.enroll",
            "enroll",
            "As identity, and how to pair with the Use Pod marketplace.",
        ),
        "validate": _Command(
            f"{_CLI}.validate",
            "validate",
            "Check the configuration alone, without any connection.",
        ),
    },
    "Maintenance": {
        "support-bundle": _Command(
            f"{_CLI}.support.command",
            "support_bundle",
            "Collect what a report of a problem needs, in one file.",
        ),
        "upgrade": _Command(
            f"{_CLI}.upgrade", "upgrade", "Report whether there is a newer release."
        ),
        "completion": _Command(
            f"{_CLI}.completion", "completion", "Print or install the completion of a shell."
        ),
        "man": _Command(f"{_CLI}.man_page", "man", "Print the manual page."),
        "version": _Command(
            f"{_CLI}.version", "version", "Print the versions of the agent and its libraries."
        ),
    },
    "Coordinators and the protocol": {
        "coordinator": _Command(
            "provider_agent.coordinator.command", "command", "Run the reference coordinator."
        ),
        "conformance": _Command(
            f"{_CLI}.conformance",
            "conformance",
            "Test any coordinator or agent against the protocol.",
        ),
    },
}
"""The commands by the section of the help that lists them."""

_COMMANDS: Final = {
    name: command for section in _SECTIONS.values() for name, command in section.items()
}

EXIT_INTERRUPTED: Final = 130
"""The exit code of Ctrl-C. `run`, which drains, and `demo --serve` exit with their own codes."""


_PLATFORM: Final = sys.platform

_NOT_ON_WINDOWS: Final = (
    "provider-agent does not run on Windows itself; run it in WSL 2 or in a container, while its "
    "inference servers stay on Windows (docs/operations.md explains how)"
)


class _UnsupportedPlatform(click.ClickException):
    """Printed as one message, without a traceback; the code is that of a wrong setup."""

    exit_code = 2


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
        if _PLATFORM == "win32":  # before the imports of modules that Windows does not have
            raise _UnsupportedPlatform(_NOT_ON_WINDOWS)
        if args[:1] == ["run"]:
            # Imports create many objects and hardly any garbage.
            gc.disable()
            ctx.call_on_close(gc.enable)
            # Before the imports of `run`, which take most of the start-up time.
            ctx.obj = ctx.with_resource(EarlySignals())
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            from difflib import get_close_matches  # rarely needed

            close = get_close_matches(cmd_name, _COMMANDS, 1)
            if close and not ctx.resilient_parsing:
                ctx.fail(f"No such command {cmd_name!r}. Did you mean {close[0]!r}?")
            return None
        command = _COMMANDS[cmd_name]
        found: click.Command = getattr(import_module(command.module), command.name)
        return found

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        # Not from the commands, whose imports would take most of the time.
        names = [
            CompletionItem(name, help=command.summary)
            for name, command in _COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        width = max(map(len, _COMMANDS))  # the summaries of all sections begin in one column
        for title, commands in _SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl(
                    [(name.ljust(width), one.summary) for name, one in commands.items()]
                )


def _print_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted:
        # Imported here because it takes a third of the time of `--help`.
        from provider_agent.agent.version import agent_version

        click.echo(f"provider-agent, version {agent_version()}")
        ctx.exit()


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def main() -> None:
    """Serve a coordinator's jobs with your own inference servers.

    The agent dials the coordinator, offers the models of your servers, runs each job on a server
    that supports the job's wire format, and relays the response byte for byte.

    `provider-agent COMMAND --help` describes a command.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Print "?" for a character that the terminal's encoding lacks, instead of failing.
            stream.reconfigure(errors="replace")


if __name__ == "__main__":
    main()
