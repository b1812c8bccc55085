"""`provider-agent man`: the manual page of all commands, built from their help texts."""

import inspect
from collections.abc import Iterator
from typing import Final

import click

from provider_agent.agent.version import agent_version

_NAME: Final = "provider-agent"

_FILES: Final = (
    ("./agent.toml", "the configuration, unless --config or PROVIDER_AGENT_CONFIG names one"),
    ("~/.config/provider-agent/agent.toml", "the next place of the configuration"),
    ("/etc/provider-agent/agent.toml", "the last place, and that of the system service"),
    ("/etc/provider-agent/agent.env", "environment variables of the system service"),
    ("~/.config/provider-agent/identity.key", "the identity key; back it up"),
    ("/var/lib/provider-agent/identity.key", "the identity key of the system service"),
)

_EXIT_CODES: Final = (
    ("0", "success; of run: stopped by a signal"),
    ("1", "failure; of check, status and health: a check failed"),
    ("2", "the configuration, the identity or the command line is invalid"),
    ("75", "run stopped before every response was complete and delivered"),
    ("78", "the coordinator rejects this agent; of validate: the configuration is invalid"),
    ("130", "interrupted; of run: stopped by a second signal"),
)

_ESCAPES: Final = str.maketrans(
    {
        "\\": r"\e",
        "-": r"\-",
        "'": r"\(aq",
        '"': r"\(dq",
        "`": r"\(ga",
        "^": r"\(ha",
        "~": r"\(ti",
    }
)
"""groff_char(7): ASCII characters that stand for typographic ones, such as a hyphen, in a text."""


@click.command(short_help="Print the manual page.")
@click.pass_context
def man(context: click.Context) -> None:
    """Write the manual page of all commands to standard output, for groff or mandoc.

    \b
    Read it:     provider-agent man | man -l -
    Install it:  mkdir -p ~/.local/share/man/man1
                 provider-agent man > ~/.local/share/man/man1/provider-agent.1
    """
    root = context.find_root().command
    click.echo(man_page(root, agent_version()), nl=False)


def man_page(root: click.Command, version: str) -> str:
    """Return the manual page of a command and all its subcommands, as man(7) source."""
    context = click.Context(root, info_name=_NAME, **root.context_settings)
    summary, *description = _paragraphs(root.help or "")
    lines = [
        f'.TH PROVIDER\\-AGENT 1 "" "{_escaped(f"{_NAME} {version}")}" "User Commands"',
        ".SH NAME",
        f"provider\\-agent \\- {_escaped(summary.rstrip('.'))}",
        ".SH SYNOPSIS",
        f"\\fB{_escaped(_NAME)}\\fR {_escaped(_usage(root, context))}",
        ".SH DESCRIPTION",
        *_text(description),
        *_options(root, context),
        ".SH COMMANDS",
    ]
    for command, inside in subcommands(root, context):
        lines += [
            f".SS {_escaped(f'{_short_path(inside)} {_usage(command, inside)}'.rstrip())}",
            *_text(_paragraphs(command.help or "")),
            *_options(command, inside),
        ]
    lines += [".SH FILES", *_list(_FILES), ".SH EXIT STATUS", *_list(_EXIT_CODES)]
    return "\n".join(lines) + "\n"


def subcommands(
    command: click.Command, context: click.Context
) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield the visible commands below a command, each with its context."""
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        if found is None or found.hidden:
            continue
        inside = click.Context(found, info_name=name, parent=context)
        yield found, inside
        yield from subcommands(found, inside)


def _short_path(context: click.Context) -> str:
    """Return the words of a subcommand without the name of the program."""
    return context.command_path.removeprefix(f"{_NAME} ")


def _usage(command: click.Command, context: click.Context) -> str:
    return " ".join(command.collect_usage_pieces(context))


def _paragraphs(help_text: str) -> list[str]:
    return inspect.cleandoc(help_text).split("\n\n")


def _text(paragraphs: list[str]) -> Iterator[str]:
    for paragraph in paragraphs:
        verbatim, mark, lines = paragraph.partition("\b\n")
        yield ".PP"
        if mark and not verbatim:  # click's mark of a paragraph with its own line breaks
            yield from (".EX", *map(_escaped, lines.splitlines()), ".EE")
        else:
            yield _escaped(" ".join(paragraph.split()))


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    records = (param.get_help_record(context) for param in command.get_params(context))
    return _list(record for record in records if record is not None)


def _list(entries: "Iterator[tuple[str, str]] | tuple[tuple[str, str], ...]") -> Iterator[str]:
    for term, meaning in entries:
        yield from (".TP", f"\\fB{_escaped(term)}\\fR", _escaped(meaning))


def _escaped(text: str) -> str:
    """Escape what roff would interpret or replace: without it, `~/` would not be a tilde."""
    escaped = text.translate(_ESCAPES)
    return f"\\&{escaped}" if escaped.startswith(".") else escaped
