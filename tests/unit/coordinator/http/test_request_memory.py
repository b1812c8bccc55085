import asyncio
from collections.abc import AsyncIterator

import aiohttp
from msgspec.structs import replace

from provider_agent.coordinator.http.request_memory import RequestMemory
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from tests.kit.coordinator_harness import JSON_HEADERS
from tests.kit.scripted_agent import ScriptedAgent
from tests.unit.coordinator.http.chat_requests import CHAT

BODY = b'{"model":"tiny","user":"' + b"x" * 600 + b'"}'


def test_share_holds_bytes_until_its_end() -> None:
    memory = RequestMemory(10)
    with memory.share() as one, memory.share() as other:
        assert one.grow(6)
        assert not other.grow(5)
        assert other.grow(4)
        assert not one.fits(1)
    assert memory.held_bytes == 0


async def test_request_that_does_not_fit_the_memory_of_all_receives_503(
    settings: CoordinatorSettings,
) -> None:
    # 1,024 requests of 16 MiB may run at once, which is more than most machines have.
    async def in_chunks() -> AsyncIterator[bytes]:
        yield BODY

    small = replace(settings, max_request_bytes=1000, max_held_request_bytes=1000)
    async with (
        Coordinator(small) as coordinator,
        aiohttp.ClientSession(coordinator.http_url, headers=JSON_HEADERS) as http,
        ScriptedAgent(coordinator.connect_url) as agent,
    ):
        asking = asyncio.create_task(http.post(CHAT, data=BODY))
        job = await agent.next_job()
        for body in (BODY, in_chunks()):
            async with http.post(CHAT, data=body) as response:
                assert response.status == 503
                assert response.headers["Retry-After"]
        await job.answer(b"{}")
        assert (await asking).status == 200
        asking = asyncio.create_task(http.post(CHAT, data=in_chunks()))
        await (await agent.next_job()).answer(b"{}")
        assert (await asking).status == 200
