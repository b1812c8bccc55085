"""Runs a llama.cpp server (`llamacpp_server`) in its own process."""

import asyncio
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from provider_agent.agent.cli.demo.extra import require_extra
from provider_agent.agent.cli.demo.llamacpp_server import READY

START_S: Final = 30.0
"""The timeout of loading the model. The tiny one takes 0.2 s on an idle machine."""
GRACE_S: Final = 5.0
"""The time from SIGTERM to SIGKILL."""
_TAIL_BYTES: Final = 2000
"""How much of standard error is part of the error text: the last lines name the cause."""
_KEY_VARIABLE: Final = "LLAMACPP_SERVER_KEY"


class LlamaCppStartError(Exception):
    """The server did not start; the text contains the end of its standard error."""


class LlamaCppProcess:
    """One llama.cpp server on a free loopback port.

    An async context manager: the server runs inside the block. It also ends if this process ends.

    Args:
        model: the GGUF file.
        alias: the model's id on the server.
        parallel: the number of slots.
        context_tokens: the context window of all slots together.
        api_key: the key that the server requires; None: no key.
        metrics: whether the server serves `/metrics`.
    """

    def __init__(
        self,
        model: Path,
        *,
        alias: str = "tiny",
        parallel: int = 4,
        context_tokens: int = 2048,
        api_key: str | None = None,
        metrics: bool = True,
    ) -> None:
        self.alias = alias
        self.api_key = api_key
        self._url: str | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._arguments = ["0", str(model), "--alias", alias]
        self._arguments += ["--parallel", str(parallel), "--ctx", str(context_tokens)]
        self._arguments += ["--metrics"] if metrics else []
        self._arguments += ["--api-key-env", _KEY_VARIABLE] if api_key else []

    def __repr__(self) -> str:
        return f"<LlamaCppProcess {self.alias} {self._url or 'stopped'}>"

    @property
    def url(self) -> str:
        """The base address, without a trailing slash.

        Raises:
            RuntimeError: the server is not running.
        """
        if self._url is None:
            raise RuntimeError("the server is not running")
        return self._url

    @property
    def pid(self) -> int | None:
        """The process id; None if the server is not running."""
        return self._process.pid if self._process else None

    async def start(self, start_s: float = START_S) -> str:
        """Start the process, wait until the model is loaded, and return the base address.

        Cancelling it kills the process.

        Raises:
            DemoExtraMissing: `xllamacpp` is not installed.
            LlamaCppStartError: the process ended, or was not ready within `start_s` seconds.
            RuntimeError: the server is already running.
        """
        if self._process is not None:
            raise RuntimeError("the server is already running")
        require_extra("xllamacpp")
        # Standard error goes to a file: a pipe would block the server as soon as the pipe is full.
        with tempfile.TemporaryFile() as errors:
            self._process = await self._spawn(errors)
            reason = "ended before it was ready"
            try:
                async with asyncio.timeout(start_s):
                    self._url = await _ready_address(self._process)
            except TimeoutError:
                reason = f"was not ready within {start_s:g} s"
            finally:
                if self._url is None:
                    await self._kill()
            if self._url is None:
                raise LlamaCppStartError(f"llama.cpp {reason}: {_tail(errors)}")
        return self._url

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """Stop the process: SIGTERM, then SIGKILL after `grace_s` seconds.

        May be repeated. Cancelling it kills the process at once.
        """
        process, self._url = self._process, None
        if process is None:
            return
        try:
            with suppress(TimeoutError, ProcessLookupError):
                process.terminate()
                async with asyncio.timeout(grace_s):
                    await process.wait()
        finally:
            await self._kill()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _spawn(self, errors: IO[bytes]) -> asyncio.subprocess.Process:
        environment = os.environ | ({_KEY_VARIABLE: self.api_key} if self.api_key else {})
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "provider_agent.agent.cli.demo.llamacpp_server",
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=environment,
        )

    async def _kill(self) -> None:
        """Kill the process, if it still runs, and reap it."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()


async def _ready_address(process: asyncio.subprocess.Process) -> str | None:
    """Return the address after `READY`; None if the process ended without printing it."""
    if process.stdout is None:
        return None
    async for line in process.stdout:
        text = line.decode(errors="replace")
        if text.startswith(READY):
            return text.removeprefix(READY).strip()
    return None


def _tail(errors: IO[bytes]) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _TAIL_BYTES))
    return errors.read().decode(errors="replace").strip() or "no message"
