"""Runs the `provider-agent` command as a subprocess."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

COMMAND = Path(sys.executable).with_name("provider-agent")
_KEPT_VARIABLES = (
    "PATH",
    "PYTHONPATH",
    "LANG",
    "SYSTEMROOT",
    "LD_LIBRARY_PATH",
    "COVERAGE_PROCESS_CONFIG",
)


class CompletedCommand(NamedTuple):
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


class CliProcess:
    """A running command.

    Attributes:
        out: the standard output that was read so far.
        err: the standard error that was read so far.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._stdout, self._stderr = process.stdout, process.stderr
        self.out = ""
        self.err = ""

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait_for_log(self, event: str) -> str:
        """Wait for a line of standard error that contains `event`, and return it."""
        while line := (await self._stderr.readline()).decode():
            self.err += line
            if event in line:
                return line
        raise AssertionError(f"exited before {event!r}: {self.out}{self.err}")

    async def wait_for_output(self, text: str) -> str:
        """Wait for a line of standard output that contains `text`, and return it."""
        while line := (await self._stdout.readline()).decode():
            self.out += line
            if text in line:
                return line
        self.err += (await self._stderr.read()).decode()
        raise AssertionError(f"exited before {text!r}: {self.out}{self.err}")

    async def wait_for_first_byte(self) -> None:
        """Wait for the first byte of standard output."""
        self.out += (await self._stdout.readexactly(1)).decode()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def close_stdout(self) -> None:
        """Close the reading end of standard output, as `head` does."""
        transport = self._stdout._transport  # type: ignore[attr-defined]
        transport.close()

    async def wait(self) -> CompletedCommand:
        """Wait until the command exits."""
        out, err = await asyncio.gather(self._stdout.read(), self._stderr.read())
        self.out += out.decode()
        self.err += err.decode()
        return CompletedCommand(await self._process.wait(), self.out, self.err)

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()


def kept_variables() -> dict[str, str]:
    """The variables of this process that a command receives."""
    return {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}


@asynccontextmanager
async def start_command(
    *arguments: str | Path,
    home: Path,
    env: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
) -> AsyncIterator[CliProcess]:
    """Run the command with `home` as home and current directory; kill it on exit.

    `prefix` is a command that runs it, such as `ip netns exec NAME`.
    """
    process = CliProcess(
        await asyncio.create_subprocess_exec(
            *prefix,
            COMMAND,
            *arguments,
            cwd=home,
            env={**kept_variables(), "HOME": str(home), "TMPDIR": str(home), **(env or {})},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    )
    try:
        yield process
    finally:
        await process.kill()


async def run_command(
    *arguments: str | Path, home: Path, env: Mapping[str, str] | None = None
) -> CompletedCommand:
    """Run the command until it exits."""
    async with start_command(*arguments, home=home, env=env) as process:
        return await process.wait()
