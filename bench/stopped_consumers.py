"""Measures the agent's memory while consumers do not read, and after they have left.

`python -m bench.stopped_consumers` starts jobs whose server sends without end and whose coordinator
acknowledges nothing. Each stops when its window is full. Then all jobs are cancelled.
"""

import asyncio
import os
import resource
import sys
import tempfile
import uuid
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from bench import process_usage, python_rig
from bench.sse_server import MODEL
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
from provider_agent.protocol.frames import Capabilities, Chunk, Hello, JobError, Welcome
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import (
    BATCH_BYTES,
    MAX_DEADLINE_MS,
    MAX_MESSAGE_TO_COORDINATOR_BYTES,
    MIB,
    WINDOW_BYTES,
)

STEPS: Final = (0, 125, 250, 500, 1000)
"""Stopped consumers at each measurement."""

ENDLESS_EVENTS: Final = 10**9
WAIT_S: Final = 120.0
SETTLE_S: Final = 1.0
RETURN_S: Final = 20.0
"""How long after the end of the jobs the memory is measured: the agent returns it within 15 s."""

_REQUEST: Final = b'{"model":"bench","stream":true,"messages":[]}'


class StalledCoordinator:
    """A coordinator that acknowledges nothing while jobs run.

    Attributes:
        offered: set when the agent has offered its models.
        received: the bytes of each job.
    """

    def __init__(self) -> None:
        self.offered = asyncio.Event()
        self.received: dict[bytes, int] = {}
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Listen for one agent; yields the address to dial."""
        async with serve(
            self._serve,
            "127.0.0.1",
            0,
            subprotocols=[Subprotocol(VERSION_1.subprotocol)],
            compression=None,
            max_size=MAX_MESSAGE_TO_COORDINATOR_BYTES,
        ) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            self._authority = f"127.0.0.1:{port}"
            yield f"ws://{self._authority}/"

    async def _serve(self, socket: ServerConnection) -> None:
        self._socket = socket
        self._protocol = CoordinatorProtocol(
            nonce=os.urandom(32), name="bench", authorities=[self._authority]
        )
        await self._flush()
        with suppress(ConnectionClosed):  # the agent is terminated in the end
            async for message in socket:
                decoded = VERSION_1.decode_from_agent(message, MAX_MESSAGE_TO_COORDINATOR_BYTES)
                for frame in decoded.frames:
                    match self._protocol.receive(frame):
                        case Chunk() as chunk:
                            self.received[chunk.job_id] += len(chunk.data)
                        case JobError() as error:
                            self.received.pop(error.job_id, None)
                        case Hello():
                            welcome = Welcome("b", bytes(16), 10_000, 0, WINDOW_BYTES, 4 * MIB)
                            self._protocol.accept(welcome)
                        case Capabilities() as offer if offer.models:
                            self.offered.set()
                self._changed.set()
                await self._flush()

    async def stop_consumers(self, total: int) -> None:
        """Start jobs until `total` run; returns when the window of each is full."""
        for _ in range(total - len(self.received)):
            job = Job(uuid.uuid4().bytes, MODEL, "openai", _REQUEST, MAX_DEADLINE_MS)
            self.received[job.job_id] = 0
            self._protocol.start_job(job)
        await self._flush()
        await self._wait(lambda: all(size == WINDOW_BYTES for size in self.received.values()))

    async def cancel_all(self) -> None:
        """Cancel all jobs; returns when all have ended."""
        for job_id in self.received:
            self._protocol.cancel_job(job_id, "the client has left")
        await self._flush()
        await self._wait(lambda: not self.received)

    async def _wait(self, is_done: Callable[[], bool]) -> None:
        while not is_done():
            self._changed.clear()
            await self._changed.wait()

    async def _flush(self) -> None:
        while frames := self._protocol.next_frames(BATCH_BYTES):
            await self._socket.send(VERSION_1.encode(frames))


async def measure() -> tuple[dict[int, int], int]:
    """Run the agent; return its resident bytes by number of stopped consumers, and at the end."""
    coordinator = StalledCoordinator()
    module = [sys.executable, "-m", "bench.sse_server", str(ENDLESS_EVENTS), "0"]
    async with coordinator.listening() as connect_url:
        server = await asyncio.create_subprocess_exec(*module, stdout=PIPE)
        assert server.stdout is not None
        server_url = f"http://127.0.0.1:{int(await server.stdout.readline())}"
        with tempfile.TemporaryDirectory() as folder:
            agent = await python_rig.start(
                "agent", connect_url, server_url, Path(folder), STEPS[-1]
            )
            try:
                await asyncio.wait_for(coordinator.offered.wait(), WAIT_S)
                curve = {}
                for total in STEPS:
                    await asyncio.wait_for(coordinator.stop_consumers(total), WAIT_S)
                    await asyncio.sleep(SETTLE_S)
                    curve[total] = process_usage.resident_bytes(agent.pid)
                await asyncio.wait_for(coordinator.cancel_all(), WAIT_S)
                await asyncio.sleep(RETURN_S)
                return curve, process_usage.resident_bytes(agent.pid)
            finally:
                for process in (agent, server):
                    with suppress(ProcessLookupError):
                        process.terminate()
                await asyncio.gather(agent.wait(), server.wait())


def main() -> None:
    """Print the table."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    curve, afterwards = asyncio.run(measure())
    print("stopped consumers  resident MB")
    for total, resident in curve.items():
        print(f"{total:17,}  {resident // MIB:11,}")
    print(f"  after their end  {afterwards // MIB:11,}")


if __name__ == "__main__":
    main()
