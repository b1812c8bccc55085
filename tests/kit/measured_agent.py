"""An agent in a process of its own, which reports its memory usage.

No inference server or coordinator runs in that process, so that only the agent's memory counts.
"""

import asyncio
import gc
import logging
import os
import resource
import socket
import sys
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import uvloop

from provider_agent.adapters.base import BackendSettings, WireFormat
from provider_agent.adapters.servers.openai_compatible import OpenAICompatibleBackend
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.config import LimitsConfig
from provider_agent.agent.identity.key import Identity
from provider_agent.agent.service import Service
from provider_agent.protocol.ed25519 import PrivateKey
from provider_agent.protocol.limits import KIB
from tests.kit.agent_config import agent_config

ROOT = Path(__file__).parents[2]

RECEIVE_BUFFER_BYTES = 256 * KIB
"""The receive buffer of the agent's sockets. By default the kernel enlarges it to megabytes, and a
server could then send its whole response although the agent has stopped reading."""

POLL_S = 0.01

SETTLED_S = 1.5
"""Seconds without a change after which the agent counts as settled. Longer than the second between
two acknowledgements of the reference coordinator, and than the 200 ms of the kernel's timers for
delayed acknowledgements and window probes, which may still move bytes."""


class MemoryUsage(msgspec.Struct):
    """Memory and outbox of the agent, sizes in bytes.

    Attributes:
        traced: memory allocated by Python.
        held: unacknowledged response bytes in the outbox.
        resident: resident memory of the process; 0 if the system does not report it.
        channels: jobs in the outbox.
        stopped: jobs in the outbox with more than half a window of unacknowledged bytes. The test's
            backend always has more to send. So once the held bytes no longer grow, the responses
            of these jobs are paused.
    """

    traced: int
    held: int
    resident: int
    channels: int
    stopped: int


class MeasuredAgent:
    """The running agent process, seen from the test."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._stdin, self._stdout = process.stdin, process.stdout

    async def usage(self) -> MemoryUsage:
        """Ask the process for its current usage."""
        self._stdin.write(b"\n")
        return msgspec.json.decode(await self._stdout.readline(), type=MemoryUsage)

    async def settled(self, *, channels: int) -> MemoryUsage:
        """Wait until the agent has settled, and return its usage.

        The agent has settled when its outbox holds `channels` jobs, all of them are stopped, and
        the held bytes have not changed for `SETTLED_S`.
        """
        loop = asyncio.get_running_loop()
        before, since = await self.usage(), loop.time()
        while before.stopped != channels or loop.time() - since < SETTLED_S:
            await asyncio.sleep(POLL_S)  # there is no event for "nothing changes"
            now = await self.usage()
            if (now.held, now.channels, now.stopped) != (before.held, channels, channels):
                since = loop.time()
            before = now
        return before


@asynccontextmanager
async def measured_agent(coordinator_url: str, backend_url: str) -> AsyncIterator[MeasuredAgent]:
    """Run the agent process, and kill it at the end.

    `make coverage` does not measure this process: its records would count as the agent's memory.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.kit.measured_agent", coordinator_url, backend_url),
        cwd=ROOT,
        env=env,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield MeasuredAgent(process)
    finally:
        process.kill()
        await process.communicate()


# --- in the agent process -------------------------------------------------------------------------


class _Socket(socket.socket):
    """A socket with a receive buffer of a fixed size."""

    def __init__(self, *args: int, **kwargs: int) -> None:
        super().__init__(*args, **kwargs)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)


async def _main(coordinator_url: str, backend_url: str) -> None:
    socket.socket = _Socket  # type: ignore[assignment,misc]
    settings = BackendSettings(
        kind=OpenAICompatibleBackend.kind,
        url=backend_url,
        formats=(WireFormat.OPENAI,),
        max_concurrent=256,
    )
    service = Service(
        agent_config(coordinator_url, limits=LimitsConfig(max_concurrent=256)),
        Identity(PrivateKey.generate()),
        Backends([OpenAICompatibleBackend(settings)], {}, [], {}),
        uniform=lambda: 0.0,  # no backoff
    )
    running = asyncio.create_task(service.run(), name="agent")
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while await reader.readline():
        sys.stdout.buffer.write(msgspec.json.encode(_usage(service)) + b"\n")
        sys.stdout.buffer.flush()
    running.cancel()


def _usage(service: Service) -> MemoryUsage:
    streams = service.outbox.streams
    if not streams:
        gc.collect()  # slow, therefore only without jobs
    return MemoryUsage(
        traced=tracemalloc.get_traced_memory()[0],
        held=sum(stream.written - stream.acked for stream in streams),
        resident=_resident_bytes(),
        channels=len(streams),
        stopped=sum(not stream.below_low_water for stream in streams),
    )


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize()


if __name__ == "__main__":
    logging.getLogger("provider_agent").addHandler(logging.NullHandler())
    tracemalloc.start()
    uvloop.run(_main(*sys.argv[1:]))
