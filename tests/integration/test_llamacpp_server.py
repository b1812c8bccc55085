"""The real server of the kit answers in both wire formats, and starts and stops as told."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from provider_agent.agent.backends.local_servers import FoundServer, find_local_servers
from provider_agent.agent.cli.demo.llamacpp_process import LlamaCppProcess, LlamaCppStartError
from tests.kit.llamacpp import LlamaCppFactory

PROMPT: dict[str, Any] = {
    "model": "tiny",
    "max_tokens": 5,
    "messages": [{"role": "user", "content": "Say something."}],
}


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_answers_a_chat(
    llamacpp_server: LlamaCppProcess, client: aiohttp.ClientSession
) -> None:
    url = f"{llamacpp_server.url}/v1/chat/completions"

    async with client.post(url, json=PROMPT) as response:
        answer = await response.json()

    assert response.status == 200
    assert answer["model"] == "tiny"
    assert answer["choices"][0]["message"]["content"].strip()
    assert answer["usage"]["completion_tokens"] == 5


async def test_answers_a_message(
    llamacpp_server: LlamaCppProcess, client: aiohttp.ClientSession
) -> None:
    async with client.post(f"{llamacpp_server.url}/v1/messages", json=PROMPT) as response:
        answer = await response.json()

    assert response.status == 200
    assert answer["type"] == "message"
    assert answer["content"][0]["text"].strip()
    assert answer["usage"]["output_tokens"] == 5


@pytest.mark.parametrize(
    ("path", "end"),
    [
        ("/v1/chat/completions", b"data: [DONE]\n\n"),
        ("/v1/messages", b'data: {"type":"message_stop"}\n\n'),
    ],
)
async def test_streams(
    path: str, end: bytes, llamacpp_server: LlamaCppProcess, client: aiohttp.ClientSession
) -> None:
    async with client.post(llamacpp_server.url + path, json=PROMPT | {"stream": True}) as response:
        stream = await response.read()

    assert response.content_type == "text/event-stream"
    assert stream.endswith(end)


async def test_asks_for_its_key(
    llamacpp_factory: LlamaCppFactory, client: aiohttp.ClientSession
) -> None:
    server = await llamacpp_factory(api_key="secret-of-the-test")
    url = f"{server.url}/v1/chat/completions"

    async with client.post(url, json=PROMPT) as refused:
        assert refused.status == 401
    headers = {"Authorization": "Bearer secret-of-the-test"}
    async with client.post(url, json=PROMPT, headers=headers) as accepted:
        assert accepted.status == 200


async def test_a_stopping_model_ends_by_itself(
    llamacpp_factory: LlamaCppFactory, client: aiohttp.ClientSession
) -> None:
    server = await llamacpp_factory(stops=True)
    request = PROMPT | {"max_tokens": 1000, "seed": 1}

    async with client.post(f"{server.url}/v1/chat/completions", json=request) as response:
        answer = await response.json()

    assert answer["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("api_key", [None, "secret-of-the-test"])
async def test_is_found_as_llamacpp(api_key: str | None, llamacpp_factory: LlamaCppFactory) -> None:
    server = await llamacpp_factory(api_key=api_key)
    port = int(server.url.rpartition(":")[2])

    assert await find_local_servers([port]) == [FoundServer("llamacpp", server.url)]


async def test_stop_ends_the_process_and_may_be_repeated(tiny_model: Path) -> None:
    server = LlamaCppProcess(tiny_model)
    await server.start()
    pid = server.pid
    assert pid is not None

    await server.stop()
    await server.stop()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(RuntimeError, match="does not run"):
        _ = server.url


async def test_a_server_that_hangs_is_killed(tiny_model: Path) -> None:
    server = LlamaCppProcess(tiny_model)
    await server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)

    await server.stop(grace_s=0.01)

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_stopped_server_starts_again(tiny_model: Path) -> None:
    server = LlamaCppProcess(tiny_model)
    await server.start()
    await server.stop()

    async with server:
        assert server.url.startswith("http://127.0.0.1:")
        with pytest.raises(RuntimeError, match="runs already"):
            await server.start()


async def test_a_failed_start_says_why(tmp_path: Path) -> None:
    server = LlamaCppProcess(tmp_path / "nothing.gguf")

    with pytest.raises(LlamaCppStartError, match=r"nothing\.gguf"):
        await server.start()

    assert server.pid is None


async def test_a_start_that_takes_too_long_is_given_up(tiny_model: Path) -> None:
    server = LlamaCppProcess(tiny_model)

    with pytest.raises(LlamaCppStartError, match=r"not ready within 0\.001 s"):
        await server.start(start_s=0.001)

    assert server.pid is None


async def test_a_server_ends_when_its_owner_lets_go_of_its_standard_input(tiny_model: Path) -> None:
    """A test run that is killed must not leave servers behind."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "provider_agent.agent.cli.demo.llamacpp_server", "0", tiny_model),
        "--until-stdin-closes",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert (await process.stdout.readline()).startswith(b"READY http://127.0.0.1:")

    process.stdin.close()

    assert await process.wait() == 0
