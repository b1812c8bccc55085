import asyncio
import netrc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from provider_agent.adapters.base import (
    BackendSettings,
    BackendTimeout,
    InvalidResponse,
    Unreachable,
)
from provider_agent.adapters.servers import api_request
from provider_agent.adapters.servers.http_backend import HttpBackend
from provider_agent.adapters.servers.openai_compatible import OpenAICompatibleBackend
from tests.kit.fakes import FakeOpenAICompatible, FakeOpenRouter, FakeResponse, Fault
from tests.kit.fakes.openai_compatible import MODEL
from tests.kit.sink import CollectingSink
from tests.unit.adapters.conftest import Connect, a_job

KEY = "sk-operator-0123456789"


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenAICompatible]:
    async with FakeOpenAICompatible(api_key=KEY) as running:
        yield running


async def test_api_request_does_not_follow_redirects(
    server: FakeOpenAICompatible, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    redirect = FakeResponse(status=302, headers={"Location": server.url + "/elsewhere"})
    monkeypatch.setattr(server, "respond", lambda _: redirect)

    assert not (await connect(server).health()).reachable
    assert server.requests_to("/elsewhere") == []


async def test_closed_backend_reconnects_on_use(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    backend = connect(server)
    await backend.health()
    await backend.close()

    assert (await backend.health()).reachable


async def test_health_check_does_not_wait_for_running_jobs(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    # aiohttp, which is used through a proxy, opens at most 100 connections by default.
    backend = connect(server, max_concurrent=1)
    server.script_jobs(*[Fault.HANG_AFTER_FIRST_CHUNK] * 120)
    sinks = [CollectingSink() for _ in range(120)]
    running = [asyncio.create_task(backend.execute(a_job(MODEL), sink)) for sink in sinks]
    for sink in sinks:
        await sink.first_chunk.wait()

    assert (await backend.health()).reachable

    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_api_request_times_out(server: FakeOpenAICompatible, connect: Connect) -> None:
    backend = connect(server)
    assert isinstance(backend, HttpBackend)
    server.script_jobs(Fault.HANG_BEFORE_HEADERS)

    with pytest.raises(BackendTimeout):
        await backend.request("POST", "/v1/chat/completions", json={"messages": []}, timeout_s=0.05)


async def test_oversized_api_response_is_invalid(
    server: FakeOpenAICompatible, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_request, "MAX_RESPONSE_BYTES", 1000)
    monkeypatch.setattr(server, "respond", lambda _: FakeResponse((b"x" * 600, b"x" * 401)))

    with pytest.raises(InvalidResponse, match="too big"):
        await connect(server).list_models()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"data":7}', b'{"data":[{"id":7}]}'])
async def test_api_response_of_an_unexpected_shape_is_invalid(
    server: FakeOpenAICompatible, connect: Connect, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(server, "respond", lambda _: FakeResponse((body,)))

    with pytest.raises(InvalidResponse, match="expected shape"):
        await connect(server).list_models()


@pytest.mark.parametrize("url", ["http://", "nonsense", "http://[::1", "http://host:99999"])
async def test_malformed_url_is_unreachable(url: str) -> None:
    backend = OpenAICompatibleBackend(BackendSettings(kind="openai_compatible", url=url))

    with pytest.raises(Unreachable):
        await backend.list_models()
    await backend.close()


async def test_netrc_does_not_replace_the_operators_key(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # aiohttp reads this file if `trust_env` is set, which the adapters therefore do not set.
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login somebody password else\n")
    file.chmod(0o600)
    assert netrc.netrc(str(file)).authenticators("127.0.0.1")
    monkeypatch.setenv("NETRC", str(file))
    async with FakeOpenRouter(api_key=KEY) as server:
        assert (await connect(server).health()).reachable

    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
