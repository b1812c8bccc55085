"""Runs the `provider-agent` command in a pseudo-terminal, and types answers to its questions."""

import asyncio
import os
import pty
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.kit.cli_process import COMMAND, kept_variables


class TerminalProcess:
    """A command whose input, output and errors are a terminal.

    Attributes:
        screen: everything that the terminal has displayed.
    """

    def __init__(self, process: asyncio.subprocess.Process, terminal: int) -> None:
        self.screen = ""
        self._process = process
        self._terminal = terminal
        self._read_up_to = 0
        self._changed = asyncio.Event()
        self._closed = False
        asyncio.get_running_loop().add_reader(terminal, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._terminal, 65536)
        except OSError:  # EIO: the command has exited
            data = b""
        if not data:
            self._closed = True
            asyncio.get_running_loop().remove_reader(self._terminal)
        self.screen += data.decode().replace("\r\n", "\n")
        self._changed.set()

    async def expect(self, text: str) -> None:
        """Wait until the terminal displays `text` after what was expected before."""
        while (at := self.screen.find(text, self._read_up_to)) < 0:
            assert not self._closed, f"exited before {text!r}: {self.screen}"
            self._changed.clear()
            await self._changed.wait()
        self._read_up_to = at + len(text)

    async def answer(self, question: str, answer: str) -> None:
        """Wait for a question, and type one line."""
        await self.expect(question)
        self.type(f"{answer}\n")

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    async def type_until_exit(self, key: str) -> int:
        """Type a key until the command exits; return its exit code.

        A Ctrl-C between a prompt and the `select` of `readline` has no effect before the next key.
        """
        while True:
            self.type(key)
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    return await self.wait()

    async def wait(self) -> int:
        """Wait until the command exits; return its exit code."""
        while not self._closed:
            self._changed.clear()
            await self._changed.wait()
        return await self._process.wait()

    async def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._terminal)
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


_TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes standard input the controlling terminal, which receives Ctrl-C and is `/dev/tty`."""


@asynccontextmanager
async def start_in_terminal(
    *arguments: str, home: Path, env: dict[str, str] | None = None
) -> AsyncIterator[TerminalProcess]:
    """Run the command with `home` as home and current directory; kill it on exit."""
    terminal, inside = pty.openpty()
    try:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-SEc",
                _TAKE_TERMINAL,
                COMMAND,
                *arguments,
                cwd=home,
                env={**kept_variables(), "HOME": str(home), "LANG": "C.UTF-8", **(env or {})},
                stdin=inside,
                stdout=inside,
                stderr=inside,
                start_new_session=True,
            )
        finally:
            os.close(inside)
        running = TerminalProcess(process, terminal)
        try:
            yield running
        finally:
            await running.close()
    finally:
        os.close(terminal)
