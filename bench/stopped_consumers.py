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
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from websockets.asyncio.server import ServerConnection

from bench import process_usage, python_rig
from bench.coordinator_rig import REQUEST, CoordinatorRig
from bench.sse_server import MODEL
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
from provider_agent.protocol.frames import Capabilities, Chunk, Hello, JobError, Welcome
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import (
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


class StalledCoordinator(CoordinatorRig):
    """A coordinator that acknowledges nothing while jobs run.

    Attributes:
        held: the bytes of each running job.
    """

    def __init__(self) -> None:
        super().__init__(STEPS[-1])
        self.held: dict[bytes, int] = {}
        self._changed = asyncio.Event()

    async def run_protocol(self, socket: ServerConnection) -> None:
        """Receive and send frames until the connection ends."""
        self._socket = socket
        self._protocol = CoordinatorProtocol(
            nonce=os.urandom(32), name="bench", authorities=[self.authority]
        )
        await self.flush(socket, self._protocol)
        async for message in socket:
            decoded = VERSION_1.decode_from_agent(message, MAX_MESSAGE_TO_COORDINATOR_BYTES)
            for frame in decoded.frames:
                match self._protocol.receive(frame):
                    case Chunk() as chunk:
                        self.held[chunk.job_id] += len(chunk.data)
                    case JobError() as error:
                        self.held.pop(error.job_id, None)
                    case Hello():
                        welcome = Welcome("b", bytes(16), 10_000, 0, WINDOW_BYTES, 4 * MIB)
                        self._protocol.accept(welcome)
                    case Capabilities() as offer if offer.models:
                        self.offered.set()
            self._changed.set()
            await self.flush(socket, self._protocol)

    async def stop_consumers(self, total: int) -> None:
        """Start jobs until `total` run; returns when the window of each is full."""
        for _ in range(total - len(self.held)):
            job = Job(uuid.uuid4().bytes, MODEL, "openai", REQUEST, MAX_DEADLINE_MS)
            self.held[job.job_id] = 0
            self._protocol.start_job(job)
        await self._wait(lambda: all(size == WINDOW_BYTES for size in self.held.values()))

    async def cancel_all(self) -> None:
        """Cancel all jobs; returns when all have ended."""
        for job_id in self.held:
            self._protocol.cancel_job(job_id, "the client has left")
        await self._wait(lambda: not self.held)

    async def _wait(self, is_done: Callable[[], bool]) -> None:
        await self.flush(self._socket, self._protocol)
        while not is_done():
            self._changed.clear()
            await self._changed.wait()


async def measure() -> tuple[dict[int, int], int]:
    """Run the agent; return its resident bytes by number of stopped consumers, and at the end."""
    coordinator = StalledCoordinator()
    connect_url = await coordinator.start()
    module = [sys.executable, "-m", "bench.sse_server", str(ENDLESS_EVENTS), "0"]
    server = await asyncio.create_subprocess_exec(*module, stdout=PIPE)
    assert server.stdout is not None
    server_url = f"http://127.0.0.1:{int(await server.stdout.readline())}"
    with tempfile.TemporaryDirectory() as folder:
        agent = await python_rig.start("agent", connect_url, server_url, Path(folder), STEPS[-1])
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
            await coordinator.stop()


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
