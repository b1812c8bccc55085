"""A fake coordinator: sends jobs to an agent, and counts the events that the agent returns."""

import asyncio
import os
import re
import time
import uuid
from contextlib import suppress

from msgspec import Struct
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from bench.sse_server import EVENT_BYTES, MODEL
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
from provider_agent.protocol.frames import Capabilities, Chunk, Hello, JobError, JobResult, Welcome
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import (
    BATCH_BYTES,
    MAX_DEADLINE_MS,
    MAX_MESSAGE_TO_COORDINATOR_BYTES,
    MIB,
)
from provider_agent.protocol.receipts import FEATURE

_STAMP = re.compile(rb'"t":(\d+)')
REQUEST = b'{"model":"bench","stream":true,"stream_options":{"include_usage":true},"messages":[]}'


class Received(Struct):
    """What the agent returned.

    Attributes:
        events: number of events, computed from the size of each chunk.
        seconds: time from the first job sent to the last end received.
        messages: number of WebSocket messages.
        latencies_ms: for the first event of each chunk, the time from the server's write to its
            arrival here.
    """

    events: int = 0
    seconds: float = 0.0
    messages: int = 0
    latencies_ms: list[float] = []


class CoordinatorRig:
    """Runs one load on the agent that connects.

    Args:
        streams: concurrent jobs.
        receipts: whether to negotiate signed receipts; they are not checked.

    Attributes:
        received: what the agent has returned so far.
        offered: set when the agent has offered its models.
        go: set by the caller to start the jobs.
        done: set when every job has ended, or one has failed.
        failure: the error of a failed job; "" if none has failed.
        authority: `host:port` of the rig, once it listens.
    """

    def __init__(self, streams: int, *, receipts: bool = False) -> None:
        self._streams = streams
        self._receipts = receipts
        self.received = Received(latencies_ms=[])
        self.offered = asyncio.Event()
        self.go = asyncio.Event()
        self.done = asyncio.Event()
        self.failure = ""
        self._server: Server | None = None

    async def start(self) -> str:
        """Listen, and return the address for agents to dial."""
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            0,
            subprotocols=[Subprotocol(VERSION_1.subprotocol)],
            compression=None,
            max_size=MAX_MESSAGE_TO_COORDINATOR_BYTES,
        )
        port = next(iter(self._server.sockets)).getsockname()[1]
        self.authority = f"127.0.0.1:{port}"
        return f"ws://{self.authority}/"

    async def stop(self) -> None:
        """Close all connections and stop listening."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, socket: ServerConnection) -> None:
        with suppress(ConnectionClosed):  # the relay is terminated after its load
            await self.run_protocol(socket)

    async def run_protocol(self, socket: ServerConnection) -> None:
        """Receive and send frames until the connection ends."""
        protocol = CoordinatorProtocol(
            nonce=os.urandom(32),
            name="bench",
            authorities=[self.authority],
            features=[FEATURE] if self._receipts else [],
        )
        await self.flush(socket, protocol)
        open_jobs = self._streams
        starter: asyncio.Task[None] | None = None
        async for message in socket:
            decoded = VERSION_1.decode_from_agent(message, MAX_MESSAGE_TO_COORDINATOR_BYTES)
            self.received.messages += 1
            for frame in decoded.frames:
                match protocol.receive(frame):
                    case Chunk() as chunk:
                        self._count(chunk)
                        protocol.consumed(chunk.job_id, len(chunk.data))
                    case JobResult():
                        open_jobs -= 1
                    case JobError() as error:
                        self.failure = f"{error.code}: {error.message}"
                        self.done.set()
                    case Hello():
                        protocol.accept(Welcome("b", bytes(16), 10_000, 0, MIB, 4 * MIB))
                    case Capabilities() as offered if offered.models and starter is None:
                        self.offered.set()
                        starter = asyncio.create_task(self._start_jobs(socket, protocol))
            await self.flush(socket, protocol)
            if not open_jobs and not self.done.is_set():
                self.received.seconds = time.monotonic() - self._began
                self.done.set()

    async def _start_jobs(self, socket: ServerConnection, protocol: CoordinatorProtocol) -> None:
        await self.go.wait()
        self._began = time.monotonic()
        for _ in range(self._streams):
            job = Job(
                uuid.uuid4().bytes,
                MODEL,
                "openai",
                REQUEST,
                MAX_DEADLINE_MS,
                sign_receipt=self._receipts,
            )
            protocol.start_job(job)
        await self.flush(socket, protocol)

    async def flush(self, socket: ServerConnection, protocol: CoordinatorProtocol) -> None:
        """Send what the protocol has to send."""
        while frames := protocol.next_frames(BATCH_BYTES):
            await socket.send(VERSION_1.encode(frames))

    def _count(self, chunk: Chunk) -> None:
        now = time.monotonic_ns()
        self.received.events += len(chunk.data) // EVENT_BYTES
        stamp = _STAMP.search(chunk.data)
        if stamp is not None:
            self.received.latencies_ms.append((now - int(stamp[1])) / 1e6)
