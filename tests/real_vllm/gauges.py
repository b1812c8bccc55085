"""What the server's own figures say: the agent reads them, or a test reads them past its back."""

import asyncio
from collections.abc import Callable

import aiohttp

from provider_agent.adapters.base import Backend, ServerLoad
from provider_agent.adapters.servers.prometheus_text import read_gauges

_TOKENS = "vllm:generation_tokens_total"
_POLL_S = 0.02
_PATIENCE_S = 30.0


async def load_when(backend: Backend, wanted: Callable[[ServerLoad], bool]) -> ServerLoad:
    """Ask again and again until the load is as wanted: a server's figures call nobody."""
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            load = await backend.load()
            assert load is not None
            if wanted(load):
                return load
            await asyncio.sleep(_POLL_S)


async def tokens_generated(url: str) -> float:
    """Tokens that the server's engine has written since it started, whoever asked for them."""
    async with aiohttp.ClientSession() as client, client.get(f"{url}/metrics") as response:
        return sum(read_gauges(await response.read(), [_TOKENS])[_TOKENS])
