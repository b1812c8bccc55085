"""A load balancer in front of coordinators, as deploy/cluster/haproxy.cfg configures one."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import aiohttp

HOST: Final = "127.0.0.1"

CHECK_EVERY_S: Final = 1.0
CHECK_TIMEOUT_S: Final = 2.0
CONNECT_TIMEOUT_S: Final = 2.0
FALL: Final = 2
"""So many failed checks, one after the other, take a coordinator out."""

_STOPPING: Final = "the coordinator is stopping"
_READ_BYTES: Final = 64 * 1024


class _Backend:
    """The coordinators that receive connections of one kind.

    Attributes:
        up: the ports of those whose last checks did not fail.
        connections: the number of open connections of each.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self.up: set[int] = set()
        self.connections = Counter(dict.fromkeys(ports, 0))
        self._failed: Counter[int] = Counter()

    def checked(self, port: int, passed: bool) -> None:
        self._failed[port] = 0 if passed else self._failed[port] + 1
        if passed:
            self.up.add(port)
        elif self._failed[port] >= FALL:
            self.up.discard(port)

    def candidates(self) -> list[int]:
        """Return what is up, the one with the fewest connections first."""
        return sorted(self.up, key=lambda port: self.connections[port])


class LoadBalancer:
    """Forwards TCP connections; an async context manager.

    Clients are sent to coordinators that are ready, agents to all that run and do not stop. A
    connection that a coordinator refuses is sent to another one.

    Args:
        ports: the coordinators' ports on loopback.

    Attributes:
        client_port: where clients connect.
        agent_port: where agents connect.
    """

    def __init__(self, ports: Sequence[int]) -> None:
        self.client_port = 0
        self.agent_port = 0
        self._ports = tuple(ports)
        self._ready = _Backend(ports)
        self._running = _Backend(ports)
        self._servers: list[asyncio.Server] = []
        self._checks: list[asyncio.Task[None]] = []
        self._forwarding: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """The base address for clients."""
        return f"http://{HOST}:{self.client_port}"

    @property
    def ready(self) -> int:
        """How many coordinators receive requests of clients."""
        return len(self._ready.up)

    @property
    def running(self) -> int:
        """How many coordinators receive connections of agents."""
        return len(self._running.up)

    async def __aenter__(self) -> Self:
        self.client_port = await self._listen(self._ready)
        self.agent_port = await self._listen(self._running)
        for port in self._ports:
            task = asyncio.create_task(self._check(port), name="health check")
            self._checks.append(task)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for server in self._servers:
            server.close()
        for task in self._checks:
            task.cancel()
        await asyncio.gather(*self._checks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._forwarding)

    async def _listen(self, backend: _Backend) -> int:
        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._forwarding.add(task)
            self._writers.add(writer)
            try:
                await self._forward(backend, reader, writer)
            finally:
                self._writers.discard(writer)
                self._forwarding.discard(task)

        server = await asyncio.start_server(forward, HOST, 0)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _check(self, port: int) -> None:
        timeout = aiohttp.ClientTimeout(total=CHECK_TIMEOUT_S)
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            while True:
                ready = running = False
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"http://{HOST}:{port}/readyz") as response:
                        ready = response.status == 200
                        running = _STOPPING not in await response.text()
                self._ready.checked(port, ready)
                self._running.checked(port, running)
                await asyncio.sleep(CHECK_EVERY_S)

    async def _forward(
        self, backend: _Backend, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        candidates = backend.candidates() or self._running.candidates()
        for port in candidates:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    target_reader, target = await asyncio.open_connection(HOST, port)
            except OSError:  # or TimeoutError
                continue
            backend.connections[port] += 1
            self._writers.add(target)
            try:
                await _relay(reader, writer, target_reader, target)
            finally:
                backend.connections[port] -= 1
                self._writers.discard(target)
            return
        writer.transport.abort()


async def _relay(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    target_reader: asyncio.StreamReader,
    target: asyncio.StreamWriter,
) -> None:
    """Copy both directions until one ends."""
    request = asyncio.create_task(_copy(reader, target), name="request")
    response = asyncio.create_task(_copy(target_reader, writer), name="response")
    await asyncio.wait([request, response], return_when=asyncio.FIRST_COMPLETED)
    if response.done() and response.result():
        writer.close()  # after the rest of the response has been written
    else:
        writer.transport.abort()
    target.transport.abort()
    await asyncio.gather(request, response)
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Copy until the end; return whether it was a regular one."""
    try:
        while data := await reader.read(_READ_BYTES):
            writer.write(data)
            await writer.drain()
    except (OSError, RuntimeError):  # uvloop raises RuntimeError when a transport was aborted
        return False
    return True
