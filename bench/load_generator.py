"""Compiles the load generator in C (`bench/load/`) and runs it."""

import functools
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from msgspec import Struct, convert

SOURCE = Path(__file__).with_name("load")
_FLAGS = ("-std=c11", "-O2")
_OPENSSL = ("-lssl", "-lcrypto")
_OPENSSL_PROBE = "#include <openssl/ssl.h>\nint main(void) { return TLS_method() == NULL; }\n"

_POLL_S = 0.5


class LoadFailed(Exception):
    """The relay or the load generator has exited; it has printed why."""


class Quantiles(Struct):
    """A distribution of durations, in milliseconds."""

    p50: float
    p99: float
    p999: float


class Figures(Struct):
    """What the load generator measured.

    Attributes:
        jobs: ended jobs.
        events: events that arrived unaltered.
        seconds: from the first job to the last end.
        messages: WebSocket messages of the agent.
        usages: jobs whose counts of tokens were reported; wrong ones end the load generator.
        latency_ms: from writing an event to its arrival, except the first one of each job.
        first_byte_ms: from the start of a job to the first byte of its response.
        errors: failed jobs.
        error: the first error.
    """

    jobs: int
    events: int
    seconds: float
    messages: int
    usages: int
    latency_ms: Quantiles
    first_byte_ms: Quantiles
    errors: int
    error: str


def compiler() -> str | None:
    """The path of a C compiler, if there is one and the load generator supports the system."""
    if sys.platform != "linux":
        return None
    return shutil.which("cc") or shutil.which("gcc")


@functools.cache
def supports_tls() -> bool:
    """Whether the compiler finds OpenSSL's headers and libraries."""
    command = [compiler() or "cc", "-x", "c", "-", "-o", os.devnull, *_OPENSSL]
    done = subprocess.run(command, input=_OPENSSL_PROBE, capture_output=True, text=True)
    return done.returncode == 0


def compile_load(folder: Path, flags: Sequence[str] = (), *, tls: bool | None = None) -> Path:
    """Compile the load generator into `folder`.

    Args:
        folder: an existing folder.
        flags: further flags of the compiler.
        tls: whether to use OpenSSL; None: if there is one.

    Raises:
        CalledProcessError: the compiler failed; it has printed why.
    """
    program = folder / "load"
    command = [
        compiler() or "cc",
        *_FLAGS,
        *flags,
        *map(str, sorted(SOURCE.glob("*.c"))),
        "-o",
        str(program),
    ]
    if supports_tls() if tls is None else tls:
        command += ["-DWITH_TLS", *_OPENSSL]
    subprocess.run(command, check=True)
    return program


class LoadGenerator:
    """A running load generator. It ends with the `with` block.

    Attributes:
        servers: the ports of its inference servers.
        coordinator: the port of its coordinator; 0 with `--target`.
    """

    def __init__(self, program: Path, arguments: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        ports = self._read()
        self.servers: list[int] = ports["servers"]
        self.coordinator: int = ports.get("coordinator", 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Let it exit; a relay that stops before it would be an error."""
        self._process.communicate()

    def wait_until_ready(self, relay_runs: Callable[[], bool]) -> None:
        """Wait until the relay has run the jobs of the warm-up.

        Args:
            relay_runs: whether the relay's process has not exited.

        Raises:
            LoadFailed: the relay has exited, does not work, or violated the protocol.
        """
        assert self._process.stdout is not None
        while not select.select([self._process.stdout], [], [], _POLL_S)[0]:
            if not relay_runs():
                raise LoadFailed
        self._read()

    def run(self) -> Figures:
        """Run the load; raises `LoadFailed` if the relay violates the protocol."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return convert(self._read(), Figures)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LoadFailed
        answer: dict[str, Any] = json.loads(line)
        return answer
