"""What `setup` prints: the code, and how long it is still valid."""

import shutil
import sys
from typing import Final

import click
from rich.padding import Padding
from rich.panel import Panel
from rich.text import Text

from provider_agent.agent.cli.terminal import console, counted, visible

MIN_COLUMNS: Final = 40
"""The width of the narrowest terminal on which the countdown is one line."""


def show_code(code: str, page_url: str, valid_s: float) -> None:
    """Print the code, and where to enter it: in a box on a terminal, else as plain lines."""
    out = console()
    if not out.is_terminal:
        click.echo(f"code     {visible(code)}")
        click.echo(f"page     {page_url}")
        click.echo(f"expires  in {counted(max(round(valid_s / 60), 1), 'minute')}")
        return
    spaced = Text(" ".join(visible(code)), style="bold")
    click.echo()
    click.echo(f"1. Open {page_url}")
    click.echo(f"2. Enter the code {visible(code)}")
    out.print()
    out.print(Padding(Panel(spaced, padding=(1, 3), expand=False), (0, 0, 0, _INDENT)))
    out.print()


_INDENT: Final = len("2. Enter ")


class Countdown:
    """Shows in one line of a terminal how long the code is still valid.

    Without a terminal it prints a line only when requests begin to fail, and when they succeed
    again.
    """

    def __init__(self) -> None:
        # None if the caller has closed it.
        self._is_terminal = sys.stdout is not None and sys.stdout.isatty()
        self._width = 0
        self._has_problem = False

    def show(self, left_s: float, problem: str) -> None:
        """Show the remaining time, and why the last request has failed, or ""."""
        if self._is_terminal:
            minutes, seconds = divmod(int(left_s), 60)
            text = f"{minutes}:{seconds:02} left"
            problem_text = f"{text}, retrying: {visible(problem)}"
            self._write(problem_text if problem else f"Waiting for the code, {text}")
        elif bool(problem) != self._has_problem:
            click.echo(f"retrying: {visible(problem)}" if problem else "connected again", err=True)
        self._has_problem = bool(problem)

    def clear(self) -> None:
        """Remove the line."""
        if self._width:
            self._write("")
            click.echo("\r", nl=False)

    def _write(self, text: str) -> None:
        # Spaces instead of an escape sequence, which not every terminal knows.
        text = text[: max(shutil.get_terminal_size().columns, MIN_COLUMNS) - 1]
        click.echo(f"\r{text.ljust(self._width)}", nl=False)
        self._width = len(text)
