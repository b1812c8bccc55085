"""Runs a relay in a thread of its own, and counts the function calls of that thread.

The number of calls does not depend on the speed of the machine, so that a test can bound it. The
relay's sockets, its server and its coordinator are real, and run in the thread of the test.
"""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any, cast

from bench import obvious_relay
from bench.sse_server import EVENT_BYTES, MODEL
from provider_agent.adapters.base import BackendSettings, WireFormat
from provider_agent.adapters.servers.openai_compatible import OpenAICompatibleBackend
from provider_agent.agent.backends.configured import Backends
from provider_agent.agent.identity.key import Identity
from provider_agent.agent.service import Service
from provider_agent.protocol.ed25519 import PrivateKey
from provider_agent.protocol.frames import Capabilities, JobResult
from provider_agent.protocol.job import Job
from tests.kit.agent_config import agent_config
from tests.kit.raw_server import LAST_CHUNK, chunked, head, whole
from tests.kit.scripted_coordinator import AgentConnection, ScriptedCoordinator

_MODELS = whole({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).data
_REFUSAL = whole(b"", 400).data
_STREAM_HEAD = head(Transfer_Encoding="chunked")
_EVENT_HEAD = b'data: {"choices":[{"index":0,"delta":{"content":"'
_EVENT_END = b'"},"finish_reason":null}]}\n\n'
_EVENT = _EVENT_HEAD.ljust(EVENT_BYTES - len(_EVENT_END), b"x") + _EVENT_END
_TAIL = (
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\ndata: [DONE]\n\n'
)
_PROMPT = b"the prompt of a job"
_REQUEST = b'{"model":"bench","stream":true,"messages":[{"role":"user","content":"%b"}]}' % _PROMPT


class _Server(asyncio.Protocol):
    """One connection of an inference server whose streams the test continues."""

    def __init__(self, streams: asyncio.Queue[asyncio.Transport]) -> None:
        self._streams = streams

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET"):
            self._transport.write(_MODELS)
        elif _PROMPT in data:
            self._transport.write(_STREAM_HEAD + chunked(_EVENT))
            self._streams.put_nowait(self._transport)
        elif data.endswith(b"}"):  # the agent probes the server
            self._transport.write(_REFUSAL)


class CountedRelay:
    """A running relay, with its server and its coordinator."""

    def __init__(
        self,
        coordinator: AgentConnection,
        streams: asyncio.Queue[asyncio.Transport],
        counter: "CountingThread",
    ) -> None:
        self._coordinator = coordinator
        self._streams = streams
        self._counter = counter
        self._jobs = 0

    async def calls_per_read(self, reads: int, events: int) -> float:
        """Count the calls for each read with this many events.

        The server sends the next events when the last ones have arrived at the coordinator.
        """
        job_id = await self._start_job()
        stream = await self._streams.get()
        received = EVENT_BYTES
        await self._coordinator.wait_for_bytes(job_id, received)
        before = self._counter.calls
        for _ in range(reads):
            stream.write(chunked(_EVENT) * events)
            received += events * EVENT_BYTES
            await self._coordinator.wait_for_bytes(job_id, received)
        calls = self._counter.calls - before
        await self._end_job(stream, job_id)
        return calls / reads

    async def calls_per_job(self, jobs: int) -> float:
        """Count the calls for each job of one event."""
        before = self._counter.calls
        for _ in range(jobs):
            job_id = await self._start_job()
            await self._end_job(await self._streams.get(), job_id)
        return (self._counter.calls - before) / jobs

    async def _start_job(self) -> bytes:
        self._jobs += 1
        job = Job(self._jobs.to_bytes(16, "big"), MODEL, "openai", _REQUEST, 60_000)
        await self._coordinator.send_jobs(job)
        return job.job_id

    async def _end_job(self, stream: asyncio.Transport, job_id: bytes) -> None:
        stream.write(chunked(_TAIL) + LAST_CHUNK)
        assert isinstance(await self._coordinator.end(job_id), JobResult)


class CountingThread(threading.Thread):
    """Runs a coroutine in an event loop written in Python, so that its calls count too.

    Attributes:
        calls: how many functions the thread has called, in Python and in C.
    """

    def __init__(self, main: Callable[[], Coroutine[Any, Any, object]]) -> None:
        super().__init__(name="counted relay")
        self.calls = 0
        self._main = main
        self._loop = asyncio.SelectorEventLoop()
        self._task: asyncio.Task[object] | None = None

    def run(self) -> None:
        with asyncio.Runner(debug=False, loop_factory=lambda: self._loop) as runner:
            runner.run(self._count())

    def stop(self) -> None:
        """Cancel the coroutine, and wait for the end of the thread."""
        self._loop.call_soon_threadsafe(self._cancel)
        self.join()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _count(self) -> None:
        self._task = asyncio.create_task(self._run_main())
        sys.setprofile(self._on_event)
        try:
            await asyncio.wait([self._task])
        finally:
            sys.setprofile(None)

    async def _run_main(self) -> object:
        return await self._main()

    def _on_event(self, _frame: FrameType, event: str, _argument: object) -> None:
        if event in ("call", "c_call"):
            self.calls += 1


def _agent(coordinator_url: str, server_url: str) -> Coroutine[Any, Any, object]:
    settings = BackendSettings(
        kind=OpenAICompatibleBackend.kind, url=server_url, formats=(WireFormat.OPENAI,)
    )
    return Service(
        agent_config(coordinator_url),
        Identity(PrivateKey.generate()),
        Backends([OpenAICompatibleBackend(settings)], {}, [], {}),
    ).run()


@asynccontextmanager
async def counted_relay(name: str) -> AsyncIterator[CountedRelay]:
    """Run the "agent", or the "obvious" relay of the benchmark."""
    streams: asyncio.Queue[asyncio.Transport] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Server(streams), "127.0.0.1", 0)
    server_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, ScriptedCoordinator() as coordinator:

        def main() -> Coroutine[Any, Any, object]:
            if name == "agent":
                return _agent(coordinator.url, server_url)
            return obvious_relay.main(coordinator.url, [server_url])

        counter = CountingThread(main)
        counter.start()
        try:
            connection = await coordinator.next_connection()
            while not (await connection.next(Capabilities)).models:
                pass  # the first check of the server may still run
            yield CountedRelay(connection, streams, counter)
        finally:
            await asyncio.to_thread(counter.stop)
