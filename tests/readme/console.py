"""Console blocks of a Markdown text, run as the text says, and their output compared with it.

A block is one terminal: its commands run in order in one shell. `…` stands for any text in a line
of output, and alone on a line for any lines. Several spaces or rules count as one. A command
without output in the text may print anything.
"""

import asyncio
import re
import signal
from asyncio.subprocess import PIPE, STDOUT, Process
from contextlib import suppress
from dataclasses import dataclass, field
from os import killpg
from pathlib import Path
from typing import Final

import click

SERVERS: Final = frozenset({"coordinator", "run"})
"""Commands of provider-agent that run until they are stopped."""

_BLOCK: Final = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_END: Final = "-- end of the command --"
_TIMEOUT_S: Final = 300.0


class ConsoleError(Exception):
    """A command failed, or printed something other than the text says."""


@dataclass(frozen=True)
class Command:
    """One command, and the output that the text shows.

    Attributes:
        text: the command, with its continuation lines.
        output: the lines of output.
    """

    text: str
    output: tuple[str, ...] = ()

    @property
    def is_server(self) -> bool:
        """Whether the command runs until it is stopped."""
        words = self.text.split()
        return "provider-agent" in words and bool(SERVERS & {*words})


def console_blocks(text: str) -> list[list[Command]]:
    """Return the commands of each console block."""
    return [_commands(block) for block in _BLOCK.findall(text)]


def _commands(block: str) -> list[Command]:
    commands: list[Command] = []
    for line in block.splitlines():
        last = commands[-1] if commands else None
        if line.startswith("$ "):
            commands.append(Command(line[2:]))
        elif last is None:
            raise ConsoleError(f"a console block begins with output: {line}")
        elif last.text.endswith("\\") and not last.output:
            commands[-1] = Command(f"{last.text}\n{line}")
        else:
            commands[-1] = Command(last.text, (*last.output, line))
    return commands


def output_matches(expected: tuple[str, ...], output: list[str], *, complete: bool) -> bool:
    """Return whether the output is that of the text; if not `complete`, it may continue."""
    parts = []
    for line in map(_squeezed, expected):
        if line == "…":
            parts.append(r"(?:[^\n]*\n)*?")
        else:
            parts.append("[^\n]*".join(re.escape(part) for part in line.split("…")) + "\n")
    text = "".join(f"{_squeezed(line)}\n" for line in output)
    pattern = re.compile("".join(parts))
    return bool(pattern.fullmatch(text) if complete else pattern.match(text))


def _squeezed(line: str) -> str:
    return re.sub("─+", "─", re.sub(" +", " ", line)).strip()


@dataclass(eq=False)
class Terminal:
    """A shell that runs the commands of one block.

    Attributes:
        folder: the working directory.
        environ: the whole environment.
        output: the lines that the last command has printed.
    """

    folder: Path
    environ: dict[str, str]
    output: list[str] = field(default_factory=list)
    _shell: Process | None = None

    async def run(self, command: Command) -> None:
        """Run a command until it ends; a server, until it has printed the output of the text.

        Raises:
            ConsoleError: it failed, ended early, or printed something else.
        """
        shell = self._shell or await self._start()
        assert shell.stdin is not None
        self.output = []
        shell.stdin.write(f"{{ {command.text}\n}} </dev/null\necho '{_END}' $?\n".encode())
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                await self._read(command, shell)
        except TimeoutError:
            raise self._error(command, f"did not finish within {_TIMEOUT_S:.0f} s") from None

    async def _start(self) -> Process:
        self._shell = await asyncio.create_subprocess_exec(
            *("bash", "--noprofile", "--norc"),
            cwd=self.folder,
            env=self.environ,
            stdin=PIPE,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
        )
        return self._shell

    async def _read(self, command: Command, shell: Process) -> None:
        assert shell.stdout is not None
        while line := (await shell.stdout.readline()).decode():
            # Output without a newline at its end is followed by the marker in the same line.
            printed, marker, code = line.partition(_END)
            if printed:
                self.output.append(printed.rstrip("\n"))
            if marker:
                self._check_end(command, int(code))
                return
            if command.is_server and output_matches(command.output, self.output, complete=False):
                return
        raise self._error(command, "ended the shell")

    def _check_end(self, command: Command, code: int) -> None:
        if command.is_server:
            raise self._error(command, "ended before it printed what the text shows")
        if code:
            raise self._error(command, f"failed with exit code {code}")
        if command.output and not output_matches(command.output, self.output, complete=True):
            raise self._error(command, "printed something other than the text shows")

    def _error(self, command: Command, what: str) -> ConsoleError:
        expected = "\n".join(command.output) or "(nothing is shown)"
        return ConsoleError(
            f"$ {command.text}\n{what}. Its output:\n\n"
            + "\n".join(self.output[-60:])
            + f"\n\nThe text shows:\n\n{expected}"
        )

    async def close(self) -> None:
        """Stop the shell and everything that it started."""
        if self._shell is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                killpg(self._shell.pid, number)
            with suppress(TimeoutError):
                async with asyncio.timeout(10):
                    await self._shell.wait()


async def follow(blocks: list[list[Command]], folder: Path, environ: dict[str, str]) -> None:
    """Run all blocks, each in a terminal of its own; servers run until the end.

    Raises:
        ConsoleError: a command failed, or printed something other than the text says.
    """
    terminals: list[Terminal] = []
    try:
        for block in blocks:
            terminals.append(Terminal(folder, environ))
            for command in block:
                click.echo(f"$ {command.text}")
                await terminals[-1].run(command)
    finally:
        for terminal in reversed(terminals):
            await terminal.close()
