"""Terminal output of the commands."""

from typing import Any

import click
import msgspec
from rich.console import Console
from rich.text import Text

from provider_agent.agent.config.prices import MILLION

PIPE_WIDTH = 200
"""A pipe has no width; rich's default of eighty columns would break lines."""


class _SafeConsole(Console):
    """Never prints a control character of a text, also if its caller has forgotten `visible`.

    Most texts come from elsewhere: a coordinator, a server, or another program on the port of the
    status server.
    """

    def render_str(self, text: str, **settings: Any) -> Text:  # noqa: ANN401
        """Convert each text and each cell of a table."""
        return super().render_str(visible(text, keep="\n"), **settings)


def console() -> Console:
    """Create a console on standard output, without rich's markup.

    A setting's name such as `[coordinator] url`, and texts of servers, must not be read as markup.
    """
    output = _SafeConsole(markup=False, emoji=False, highlight=False)
    if not output.is_terminal:
        output.width = PIPE_WIDTH
    return output


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(value)).decode())


def visible(text: str, *, keep: str = "") -> str:
    """Replace each character that is not printable; escape sequences could control the terminal.

    Args:
        text: a text of a server or coordinator.
        keep: the characters that are not replaced, such as line breaks.
    """
    return "".join(
        char if char.isprintable() or char in keep else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, whose plural ends in s: `1 job`, `2 jobs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def dollar_text(millionths: float) -> str:
    """Return an amount of earnings, which may be less than a cent: `$0.000123`."""
    # Rounded as the sums of the running agent, so that equal amounts look equal.
    return f"${round(millionths) / MILLION:.6f}"
