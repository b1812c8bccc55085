"""Reads the load and token metrics of a real vLLM server."""

import asyncio
from collections.abc import Callable

import aiohttp

from provider_agent.adapters.base import Backend, ServerLoad
from provider_agent.adapters.servers.prometheus_text import read_metrics

_TOKENS = "vllm:generation_tokens_total"
_POLL_S = 0.02
_TIMEOUT_S = 30.0


async def wait_for_load(backend: Backend, wanted: Callable[[ServerLoad], bool]) -> ServerLoad:
    """Poll the load until it satisfies a condition; the server does not notify of changes."""
    async with asyncio.timeout(_TIMEOUT_S):
        while True:
            load = await backend.load()
            assert load is not None
            if wanted(load):
                return load
            await asyncio.sleep(_POLL_S)


async def tokens_generated(url: str) -> float:
    """Return the number of tokens that the engine has generated since it started."""
    async with aiohttp.ClientSession() as client, client.get(f"{url}/metrics") as response:
        return sum(read_metrics(await response.read(), [_TOKENS])[_TOKENS])
