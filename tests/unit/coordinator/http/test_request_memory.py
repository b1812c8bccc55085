import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from msgspec.structs import replace

from provider_agent.coordinator.http.memory_size import default_request_memory
from provider_agent.coordinator.http.request_memory import RequestMemory
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.limits import MIB
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


async def test_request_over_the_memory_limit_of_all_requests_receives_503(
    settings: CoordinatorSettings,
) -> None:
    # Without this limit, the 1,024 requests that may run at once could hold 16 MiB each.
    async def in_chunks() -> AsyncIterator[bytes]:  # without a Content-Length
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


@pytest.mark.parametrize(
    ("limit", "megabytes"),
    [("104857600\n", 25), ("1\n", 16), ("max\n", None), (None, None), (f"{2**50}\n", None)],
)
def test_default_memory_is_a_share_of_the_control_group_or_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, megabytes: int | None
) -> None:
    # It is a quarter of the smaller one, but at least 16 MiB. The machine has 400 MiB.
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 102_400}.__getitem__)
    group = tmp_path / "sys/fs/cgroup/system.slice/coordinator.service"
    group.mkdir(parents=True)
    if limit is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        text = "0::/system.slice/coordinator.service\n"
        (tmp_path / "proc/self/cgroup").write_text(text, "utf-8")
        (group / "memory.max").write_text(limit, "utf-8")
    assert default_request_memory(tmp_path) == (megabytes or 100) * MIB


def test_limit_of_a_parent_control_group_counts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the process's own group was read, which often has no limit.
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 102_400}.__getitem__)
    group = tmp_path / "sys/fs/cgroup/pod/container"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/pod/container\n", "utf-8")
    (group / "memory.max").write_text("max\n", "utf-8")
    (group.parent / "memory.max").write_text(f"{200 * MIB}\n", "utf-8")
    assert default_request_memory(tmp_path) == 50 * MIB
