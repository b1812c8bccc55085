"""The page `docs/commands.md`, from the help texts of the commands."""

import inspect
from collections.abc import Iterator
from typing import Final

import click

from provider_agent.agent.cli.man_page import subcommands

_NAME: Final = "provider-agent"

_INTRODUCTION: Final = """# Commands

`provider-agent COMMAND --help` prints the same texts. `-h` and `--help` exist for every command.

Exit codes: 0 success; 1 failure; 2 the configuration, the identity or the command line is invalid;
75 `run` stopped before every response was complete and delivered; 78 the coordinator rejects this
agent; 130 interrupted.

<!-- Written by `make docs-reference` from the code. Change the help texts there. -->
"""


def commands_page(root: click.Command) -> str:
    """Return the page: each command with its usage, help text and options."""
    context = click.Context(root, info_name=_NAME, **root.context_settings)
    return _INTRODUCTION + "".join(_section(*found) for found in subcommands(root, context))


def _section(command: click.Command, context: click.Context) -> str:
    words = context.command_path.removeprefix(f"{_NAME} ")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    level = "#" * (2 + words.count(" "))
    parts = [f"\n{level} {words}\n\n```\n{usage}\n```\n"]
    parts += [f"\n{paragraph}\n" for paragraph in _paragraphs(command.help or "")]
    records = [
        record
        for parameter in command.get_params(context)
        if "--help" not in parameter.opts
        and (record := parameter.get_help_record(context)) is not None
        and record[1]
    ]
    if records:
        rows = "".join(f"| `{names}` | {_cell(text)} |\n" for names, text in records)
        parts.append(f"\n| option | meaning |\n| --- | --- |\n{rows}")
    return "".join(parts)


def _paragraphs(help_text: str) -> Iterator[str]:
    for paragraph in inspect.cleandoc(help_text).split("\n\n"):
        verbatim, mark, lines = paragraph.partition("\b\n")
        if mark and not verbatim:  # click's mark of a paragraph with its own line breaks
            yield f"```\n{lines.strip(chr(10))}\n```"
        else:
            yield _plain(" ".join(paragraph.split()))


def _cell(text: str) -> str:
    return _plain(" ".join(text.split())).replace("|", r"\|")


def _plain(text: str) -> str:
    """Escape what Markdown would interpret: `[coordinator]`, `*` and `<`."""
    for character in r"\*[]":
        text = text.replace(character, f"\\{character}")
    return text.replace("<", "&lt;")
