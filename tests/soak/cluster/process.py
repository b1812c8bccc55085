"""A `provider-agent` process that the soak test signals and starts again."""

import asyncio
import re
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCONT, Signals
from typing import Final

import aiohttp

from tests.kit.cli_process import COMMAND, kept_variables

MIB: Final = 1024 * 1024

START_S: Final = 60.0
"""Several processes start at once, and share the processors with the load."""

EXIT_GRACE_S: Final = 30.0
"""How long a process may take to exit after its drain."""

RESIDENT_SLACK_BYTES: Final = 32 * MIB
"""Allowed growth: fragmentation of the allocator."""

_SAMPLE: Final = re.compile(r"^(\w+)(?:\{[^}]*\})? ([-+.\deE]+)$", re.MULTILINE)


@dataclass(frozen=True)
class ProcessFootprint:
    """The process at one moment.

    Attributes:
        resident: resident memory in bytes.
        descriptors: open files, without the connections of clients and agents.
    """

    resident: int
    descriptors: int

    def leaks_since(self, start: "ProcessFootprint") -> list[str]:
        """Return descriptions of what has grown since the start."""
        leaks = []
        if self.resident > start.resident + RESIDENT_SLACK_BYTES:
            leaks.append(f"resident memory: {self.resident - start.resident} bytes")
        if self.descriptors > start.descriptors:
            leaks.append(f"file descriptors: {self.descriptors - start.descriptors}")
        return leaks

    def __str__(self) -> str:
        return f"{self.resident / MIB:.0f} MiB, {self.descriptors} fds"


class ManagedProcess:
    """A process with the same arguments and ports after each start.

    Args:
        name: for messages, and for the name of its log file.
        arguments: returns the arguments of the command, at each start.
        port: where it serves `/metrics`.
        folder: its home; the log is appended to `NAME.log` there.
        drain_s: the longest time that it waits for jobs after SIGTERM.

    Attributes:
        name: as above.
        port: as above.
        restarting: held while the process is stopped on purpose.
    """

    def __init__(
        self,
        name: str,
        arguments: Callable[[], Sequence[str | Path]],
        *,
        port: int,
        folder: Path,
        drain_s: float,
    ) -> None:
        self.name = name
        self.port = port
        self.drain_s = drain_s
        self.restarting = asyncio.Lock()
        self._arguments = arguments
        self._folder = folder
        self._log = folder / f"{name}.log"
        self._process: asyncio.subprocess.Process | None = None
        self._log_read = 0

    async def start(self) -> None:
        """Start; return when the process accepts connections."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(COMMAND, *self._arguments()),
                cwd=self._folder,
                env={**kept_variables(), "HOME": str(self._folder)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(START_S):
            while not self._accepts():
                if self._process.returncode is not None:
                    raise AssertionError(f"{self.name} did not start: {self._log.read_text()}")
                await asyncio.sleep(0.05)

    def send_signal(self, number: Signals) -> None:
        """Send a signal to the running process."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def stop(self, number: Signals) -> int:
        """Send a signal that ends the process, and return its exit code.

        Raises:
            TimeoutError: it did not exit within its drain and `EXIT_GRACE_S`; it is killed.
        """
        process = self._process
        if process is None:
            return 0
        self.send_signal(SIGCONT)
        self.send_signal(number)
        try:
            async with asyncio.timeout(self.drain_s + EXIT_GRACE_S):
                return await process.wait()
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    @property
    def exited(self) -> bool:
        """Whether the process has ended, although it was not stopped."""
        process = self._process
        ended = process is not None and process.returncode is not None
        return ended and not self.restarting.locked()

    def new_log(self) -> str:
        """Return what was logged since the last call."""
        with self._log.open("rb") as log:
            log.seek(self._log_read)
            text = log.read()
            self._log_read = log.tell()
        return text.decode(errors="replace")

    async def metrics(self) -> dict[str, float]:
        """Return the sum of each metric; {} if the process does not answer."""
        timeout = aiohttp.ClientTimeout(total=5)
        connector = aiohttp.TCPConnector(force_close=True)
        with suppress(aiohttp.ClientError, TimeoutError):
            async with (
                aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
                session.get(f"http://127.0.0.1:{self.port}/metrics") as response,
            ):
                text = await response.text()
            values: dict[str, float] = {}
            for name, value in _SAMPLE.findall(text):
                values[name] = values.get(name, 0) + float(value)
            return values
        return {}

    async def footprint(self) -> ProcessFootprint:
        """Measure the process, which answers."""
        values = await self.metrics()
        connections = values.get("coordinator_connections", 0)
        return ProcessFootprint(
            int(values["process_resident_memory_bytes"]),
            int(values["process_open_fds"] - connections),
        )

    def _accepts(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0
