"""Starts and stops a llama.cpp server (`agent.demo.llamacpp_server`) as a process of its own."""

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
"""How long the model may take to load: the tiny one takes 0.2 s, on a busy machine some more."""
GRACE_S: Final = 5.0
"""How long the process may take to end before it is killed."""
_TAIL_BYTES: Final = 2000
_KEY_VARIABLE: Final = "LLAMACPP_SERVER_KEY"


class LlamaCppStartError(Exception):
    """The server did not start; the text holds the end of what it wrote to standard error."""


class LlamaCppProcess:
    """One llama.cpp server on a free loopback port.

    An async context manager: it runs inside the block. It also ends when this process dies.

    Args:
        model: the GGUF file.
        alias: what the server calls it.
        parallel: answers at once.
        context_tokens: the context window of each of them together.
        api_key: the key the server asks for; None: none.
        metrics: whether it answers `/metrics`.
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
        self._arguments = ["0", str(model), "--alias", alias, "--until-stdin-closes"]
        self._arguments += ["--parallel", str(parallel), "--ctx", str(context_tokens)]
        self._arguments += ["--metrics"] if metrics else []
        self._arguments += ["--api-key-env", _KEY_VARIABLE] if api_key else []

    def __repr__(self) -> str:
        return f"<LlamaCppProcess {self.alias} {self._url or 'stopped'}>"

    @property
    def url(self) -> str:
        """The base address, without a trailing slash.

        Raises:
            RuntimeError: it does not run.
        """
        if self._url is None:
            raise RuntimeError("the server does not run")
        return self._url

    @property
    def pid(self) -> int | None:
        """The process, or None when there is none."""
        return self._process.pid if self._process else None

    async def start(self, start_s: float = START_S) -> str:
        """Start the process, wait until the model is loaded, and return the base address.

        Cancelling it kills the process.

        Raises:
            DemoExtraMissing: `xllamacpp` is not installed.
            LlamaCppStartError: the process ended, or was not ready within `start_s` seconds.
            RuntimeError: it runs already.
        """
        if self._process is not None:
            raise RuntimeError("the server runs already")
        require_extra("xllamacpp")
        # A file, not a pipe: nobody has to read it for the server to go on.
        with tempfile.TemporaryFile() as errors:
            self._process = await self._spawn(errors)
            why = "ended before it was ready"
            try:
                async with asyncio.timeout(start_s):
                    self._url = await _ready_address(self._process)
            except TimeoutError:
                why = f"was not ready within {start_s:g} s"
            finally:
                if self._url is None:
                    await self._kill()
            if self._url is None:
                raise LlamaCppStartError(f"llama.cpp {why}: {_tail(errors)}")
        return self._url

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """End the process: SIGTERM, and SIGKILL when it still runs after `grace_s` seconds.

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
        """Make sure that the process is gone and reaped."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()


async def _ready_address(process: asyncio.subprocess.Process) -> str | None:
    """The address after `READY`; None when the process ended without it."""
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
