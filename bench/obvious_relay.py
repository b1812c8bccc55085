"""The baseline of `bench.relay`, a minimal relay: aiohttp's `iter_any()` and one `send` per chunk.

It uses the same protocol, coordinator and server as the agent, but has no window, validation,
batching or cancellation.

`python -m bench.obvious_relay CONNECT_URL SERVER_URL...` sends jobs to the servers in turn.
"""

import asyncio
import itertools
import sys
from urllib.parse import urlsplit

import aiohttp
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from bench.sse_server import MODEL
from provider_agent.protocol.agent_protocol import AgentProtocol
from provider_agent.protocol.auth import canonical_authority
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.ed25519 import PrivateKey
from provider_agent.protocol.frames import (
    AgentLimits,
    Capabilities,
    Chunk,
    JobHeader,
    JobResult,
    JobStarted,
    ModelOffer,
    RequestChunk,
    Usage,
    Welcome,
)
from provider_agent.protocol.job import Job, join_request
from provider_agent.protocol.limits import MAX_MESSAGE_TO_AGENT_BYTES
from provider_agent.protocol.request import RequestBuffer


async def _run_job(
    session: aiohttp.ClientSession, socket: ClientConnection, server_url: str, job: Job
) -> None:
    async with session.post(f"{server_url}/v1/chat/completions", data=job.request) as response:
        content_type = response.headers["Content-Type"]
        await socket.send(
            VERSION_1.encode([JobStarted(job.job_id, response.status, content_type, "b")])
        )
        total = 0
        async for data in response.content.iter_any():
            await socket.send(VERSION_1.encode([Chunk(job.job_id, total, data)]))
            total += len(data)
    await socket.send(VERSION_1.encode([JobResult(job.job_id, total, Usage(), "", 0, None)]))


async def main(connect_url: str, server_urls: list[str]) -> None:
    """Relay until the coordinator closes the connection."""
    parts = urlsplit(connect_url)
    key = PrivateKey.generate()
    protocol = AgentProtocol(
        authority=canonical_authority(parts.scheme, parts.hostname or "", parts.port),
        public_key=key.public_key,
        sign=key.sign,
        agent_version="obvious",
    )
    incoming: dict[bytes, tuple[JobHeader, RequestBuffer]] = {}
    tasks: set[asyncio.Task[None]] = set()
    next_server = itertools.cycle(server_urls)
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        connect(
            connect_url, subprotocols=[Subprotocol(VERSION_1.subprotocol)], compression=None
        ) as socket,
    ):
        async for message in socket:
            decoded = VERSION_1.decode_from_coordinator(message, MAX_MESSAGE_TO_AGENT_BYTES)
            for frame in decoded.frames:
                protocol.receive(frame)
                if isinstance(frame, Welcome):
                    offer = ModelOffer(MODEL, ["openai"], ["chat"], None, True, "b", 4096)
                    capabilities = Capabilities(1, [offer], AgentLimits(4096))
                    await socket.send(VERSION_1.encode([capabilities]))
                elif isinstance(frame, JobHeader):
                    incoming[frame.job_id] = frame, RequestBuffer(frame.request_bytes)
                elif isinstance(frame, RequestChunk):
                    header, request = incoming[frame.job_id]
                    request.receive(frame)
                    if request.complete:
                        del incoming[frame.job_id]
                        job = join_request(header, request.take())
                        task = asyncio.create_task(
                            _run_job(session, socket, next(next_server), job)
                        )
                        tasks.add(task)
                        task.add_done_callback(tasks.discard)
            if protocol.to_send:
                await socket.send(VERSION_1.encode(protocol.to_send))
                protocol.to_send.clear()


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(sys.argv[1], sys.argv[2:]))
