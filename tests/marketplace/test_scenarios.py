"""The reference coordinator with an agent program as its operators run it.

Each scenario runs with our agent, and with the marketplace's own if `USEPOD_AGENT` names it.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from provider_agent.coordinator.access import SecretSet
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings, ExtraDialect
from tests.kit.end_to_end_harness import wait_for_models
from tests.kit.fakes.frames import INPUT_TOKENS, OUTPUT_TOKENS
from tests.kit.fakes.server import FakeResponse, Fault
from tests.kit.fakes.vllm import MODEL, FakeVllm
from tests.kit.fault_proxy import FaultProxy
from tests.marketplace.launchers import (
    BINARY_VARIABLE,
    ENROLLMENT_CODE,
    MAX_CONCURRENT,
    OUR_AGENT,
    RUST_AGENT,
    Files,
    Launcher,
    write_files,
)

CHAT = "/v1/chat/completions"
REQUEST = {"model": MODEL, "messages": [{"role": "user", "content": "Größe"}], "stream": True}
SETTINGS = CoordinatorSettings(
    port=0,
    drain_s=0,
    queue_s=10,
    dialects=frozenset({ExtraDialect.USEPOD}),
    enrollment_codes=SecretSet([ENROLLMENT_CODE]),
)
WITHIN_S = 60.0
"""A hanging program fails its test; the longest expected wait is a reconnect, a second or two."""


@pytest.fixture(
    params=[
        OUR_AGENT,
        pytest.param(
            RUST_AGENT,
            marks=pytest.mark.skipif(
                not os.environ.get(BINARY_VARIABLE),
                reason=f"{BINARY_VARIABLE} does not name a usepod-agent binary",
            ),
        ),
    ],
    ids=lambda launcher: launcher.name,
)
def launcher(request: pytest.FixtureRequest) -> Launcher:
    found: Launcher = request.param
    return found


@pytest.fixture
async def server() -> AsyncIterator[FakeVllm]:
    async with FakeVllm() as server:
        yield server


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    """Keeps the port that the agent dials when the coordinator restarts."""
    async with FaultProxy() as proxy:
        yield proxy


@pytest.fixture
def files(tmp_path: Path, proxy: FaultProxy, server: FakeVllm) -> Iterator[Files]:
    files = write_files(tmp_path, port=proxy.port, server_url=server.url)
    yield files
    if files.log.exists():
        print(files.log.read_text())  # pytest shows it if the test has failed  # noqa: T201


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that no event reports."""
    async with asyncio.timeout(WITHIN_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def coordinator_behind(
    proxy: FaultProxy, settings: CoordinatorSettings = SETTINGS
) -> AsyncIterator[tuple[Coordinator, aiohttp.ClientSession]]:
    async with (
        Coordinator(settings) as coordinator,
        aiohttp.ClientSession(coordinator.http_url) as http,
    ):
        proxy.target = coordinator.port
        yield coordinator, http


@asynccontextmanager
async def served(
    launcher: Launcher, files: Files, proxy: FaultProxy
) -> AsyncIterator[tuple[Coordinator, aiohttp.ClientSession]]:
    """Run coordinator and agent; yield once the agent offers its models."""
    async with (
        coordinator_behind(proxy) as (coordinator, http),
        launcher.run(files),
    ):
        await wait_for_models(coordinator, MODEL)
        yield coordinator, http


async def ask(http: aiohttp.ClientSession) -> tuple[int, bytes | None]:
    """Return status and body of the response; no body if the connection was aborted in it."""
    async with asyncio.timeout(WITHIN_S), http.post(CHAT, json=REQUEST) as response:
        try:
            return response.status, await response.read()
        except aiohttp.ClientPayloadError:
            return response.status, None


def bodies(answers: list[tuple[int, bytes | None]]) -> list[bytes]:
    assert [status for status, _ in answers] == [200] * len(answers)
    return sorted(body or b"" for _, body in answers)


def error_code(body: bytes | None) -> Any:
    assert body is not None
    return json.loads(body.removeprefix(b"data: "))["error"]["code"]


async def test_the_handshake_admits_the_agent_and_its_offers_arrive(
    launcher: Launcher, files: Files, proxy: FaultProxy
) -> None:
    async with served(launcher, files, proxy) as (coordinator, http):
        (agent,) = coordinator.agents()
        async with http.get("/status") as response:
            (status,) = (await response.json())["agents"]
        await until(lambda: f"provider_id: {agent.public_key}" in files.key.read_text())

    assert status["dialect"] == "usepod"
    assert agent.models[MODEL] == ("chat",)
    assert (agent.capacity, agent.unknown_frames) == (MAX_CONCURRENT, 0)


async def test_streams_arrive_byte_for_byte_with_their_usage(
    launcher: Launcher, files: Files, proxy: FaultProxy, server: FakeVllm
) -> None:
    async with served(launcher, files, proxy) as (coordinator, http):
        answers = await asyncio.gather(*(ask(http) for _ in range(2 * MAX_CONCURRENT)))
        async with http.get("/metrics") as response:
            metrics = await response.text()
        assert coordinator.counters.completed == len(answers)
        (agent,) = coordinator.agents()
        assert (agent.in_flight, agent.unknown_frames) == (0, 0)

    assert bodies(answers) == sorted(bytes(job.sent) for job in server.jobs)
    for direction, count in (("input", INPUT_TOKENS), ("output", OUTPUT_TOKENS)):
        total = count * len(answers)
        assert f'coordinator_tokens_total{{direction="{direction}"}} {total}.0' in metrics


async def test_a_disconnected_client_stops_the_generation(
    launcher: Launcher, files: Files, proxy: FaultProxy, server: FakeVllm
) -> None:
    server.script_jobs(Fault.HANG_AFTER_FIRST_CHUNK)
    async with served(launcher, files, proxy) as (coordinator, http):
        async with http.post(CHAT, json=REQUEST) as response:
            await response.content.readany()
            response.close()
        await asyncio.wait_for(server.jobs[0].disconnected.wait(), WITHIN_S)
        await until(lambda: coordinator.agents()[0].in_flight == 0)
        answers = await asyncio.gather(*(ask(http) for _ in range(MAX_CONCURRENT)))

    assert bodies(answers) == sorted(bytes(job.sent) for job in server.jobs[1:])


async def test_a_failing_server_is_one_error_and_the_next_request_is_served(
    launcher: Launcher, files: Files, proxy: FaultProxy, server: FakeVllm
) -> None:
    failing = FakeResponse((b'{"error": {"message": "scripted"}}',), 400)
    server.script_jobs(failing, Fault.RESET_MID_CHUNK)
    async with served(launcher, files, proxy) as (coordinator, http):
        rejected = await ask(http)
        cut = await ask(http)
        last = await ask(http)
        assert coordinator.agents()[0].in_flight == 0

    assert rejected == (400, failing.chunks[0]), "the client sees the answer of the server"
    assert cut[1] is None or b'"error"' in cut[1], "the client must see that a part is missing"
    assert last == (200, bytes(server.jobs[2].sent))


async def test_an_agent_with_a_wrong_code_is_refused_until_its_key_is_listed(
    launcher: Launcher,
    tmp_path: Path,
    proxy: FaultProxy,
    server: FakeVllm,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    files = write_files(tmp_path, port=proxy.port, server_url=server.url, code="POD-WRONG")
    async with coordinator_behind(proxy) as (coordinator, _), launcher.run(files):
        await until(lambda: "agent rejected" in caplog.messages)
        assert coordinator.agents() == []
    keys = frozenset({files.public_key})
    async with (
        coordinator_behind(proxy, replace(SETTINGS, agent_keys=keys)) as (coordinator, http),
        launcher.run(files),
    ):
        await wait_for_models(coordinator, MODEL)
        assert await ask(http) == (200, bytes(server.jobs[0].sent))

    rejections = [one for one in caplog.records if one.message == "agent rejected"]
    assert {getattr(one, "fields", {})["code"] for one in rejections} == {"not_enrolled"}


async def test_a_restarted_coordinator_serves_the_agent_again(
    launcher: Launcher, files: Files, proxy: FaultProxy, server: FakeVllm
) -> None:
    # The agent does not send its code again, so its key has to be listed.
    settings = replace(SETTINGS, agent_keys=frozenset({files.public_key}))
    server.script_jobs(Fault.HANG_AFTER_FIRST_CHUNK)
    async with launcher.run(files):
        async with coordinator_behind(proxy, settings) as (coordinator, http):
            await wait_for_models(coordinator, MODEL)
            response = await http.post(CHAT, json=REQUEST)
            first = await response.content.readany()
            await coordinator.stop()
            rest = await response.read()
        await asyncio.wait_for(server.jobs[0].disconnected.wait(), WITHIN_S)
        async with coordinator_behind(proxy, settings) as (coordinator, http):
            await wait_for_models(coordinator, MODEL)
            assert await ask(http) == (200, bytes(server.jobs[1].sent))

    assert first == server.jobs[0].sent
    assert error_code(rest) == "draining"
    assert len(server.jobs) == 2
