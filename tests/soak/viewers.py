"""Programs that watch the agents: open status pages, a scraper, a reader that has stopped."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp

from tests.soak.managed_agent import ManagedAgent

RETRY_S = 0.5
"""The pause before a viewer asks again; agents restart during the soak."""


@asynccontextmanager
async def viewers(agents: list[ManagedAgent]) -> AsyncIterator[None]:
    """Watch all agents."""
    tasks = [
        asyncio.create_task(view(agent.status_address), name="viewer")
        for agent in agents
        for view in (_page, _scraper, _stopped_reader)
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _page(address: str) -> None:
    while True:
        with suppress(aiohttp.ClientError, TimeoutError):
            timeout = aiohttp.ClientTimeout(total=None, sock_read=10)
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.get(f"http://{address}/events") as response,
            ):
                async for _ in response.content.iter_any():
                    pass
        await asyncio.sleep(RETRY_S)


async def _scraper(address: str) -> None:
    while True:
        with suppress(aiohttp.ClientError, TimeoutError):
            async with aiohttp.ClientSession() as session:
                for path in ("metrics", "status", "readyz"):
                    async with session.get(f"http://{address}/{path}") as response:
                        await response.read()
        await asyncio.sleep(RETRY_S)


async def _stopped_reader(address: str) -> None:
    host, _, port = address.rpartition(":")
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(host, int(port), limit=1)
            try:
                writer.write(f"GET /events HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
                await asyncio.sleep(15)
            finally:
                writer.transport.abort()
        await asyncio.sleep(RETRY_S)
