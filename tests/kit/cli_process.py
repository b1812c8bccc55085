"""The `provider-agent` command as a process of its own."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

COMMAND = Path(sys.executable).with_name("provider-agent")
_KEPT = ("PATH", "LANG", "SYSTEMROOT", "LD_LIBRARY_PATH")


class Ended(NamedTuple):
    code: int
    out: str
    err: str


class CliProcess:
    """A started command.

    Attributes:
        out: standard output so far, as far as it was asked for.
        err: standard error so far, likewise.
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

    async def logged(self, event: str) -> str:
        """The next line of standard error that holds `event`; waits for it."""
        while line := (await self._stderr.readline()).decode():
            self.err += line
            if event in line:
                return line
        raise AssertionError(f"ended before {event!r}: {self.out}{self.err}")

    async def printed(self, text: str) -> str:
        """The next line of standard output that holds `text`; waits for it."""
        while line := (await self._stdout.readline()).decode():
            self.out += line
            if text in line:
                return line
        self.err += (await self._stderr.read()).decode()
        raise AssertionError(f"ended before {text!r}: {self.out}{self.err}")

    async def first_bytes(self) -> None:
        """Wait until something is on standard output."""
        self.out += (await self._stdout.readexactly(1)).decode()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def hang_up(self) -> None:
        """Read no more of standard output, as `head` does."""
        transport = self._stdout._transport  # type: ignore[attr-defined]
        transport.close()

    async def ended(self) -> Ended:
        """Wait for its end."""
        out, err = await asyncio.gather(self._stdout.read(), self._stderr.read())
        self.out += out.decode()
        self.err += err.decode()
        return Ended(await self._process.wait(), self.out, self.err)

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.communicate()


@asynccontextmanager
async def provider_agent(
    *arguments: str | Path, home: Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[CliProcess]:
    """Start the command in an empty home; it does not outlive the block."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    process = CliProcess(
        await asyncio.create_subprocess_exec(
            COMMAND,
            *arguments,
            cwd=home,
            env={**kept, "HOME": str(home), "TMPDIR": str(home), **(env or {})},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    )
    try:
        yield process
    finally:
        await process.kill()


async def call(*arguments: str | Path, home: Path, env: Mapping[str, str] | None = None) -> Ended:
    """Run the command to its end."""
    async with provider_agent(*arguments, home=home, env=env) as process:
        return await process.ended()
