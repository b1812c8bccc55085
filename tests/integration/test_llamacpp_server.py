"""Real llama.cpp servers: start and stop with `LlamaCppProcess`, discovery, and the adapter."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from provider_agent.adapters.base import BackendSettings, Job, ModelServerLoad, ModelState
from provider_agent.adapters.registry import create_backend
from provider_agent.adapters.responses.status_codes import code_for_status
from provider_agent.adapters.servers.llamacpp import LlamaCppBackend
from provider_agent.adapters.servers.token_rate import MIN_TOKENS
from provider_agent.agent.backends.local_servers import FoundServer, find_local_servers
from provider_agent.agent.cli.demo.llamacpp_process import LlamaCppProcess, LlamaCppStartError
from provider_agent.protocol.errors import ErrorCode
from tests.kit.llamacpp import LlamaCppFactory
from tests.kit.sink import CollectingSink
from tests.soak.short_streams import run_streams
from tests.unit.adapters.requests.test_parse_stacks import FAST_GRAMMARS, FAST_SCHEMAS

PROMPT: dict[str, Any] = {
    "model": "tiny",
    "max_tokens": 5,
    "messages": [{"role": "user", "content": "Say something."}],
}


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_server_requires_its_key(
    llamacpp_factory: LlamaCppFactory, client: aiohttp.ClientSession
) -> None:
    server = await llamacpp_factory(api_key="secret-of-the-test")
    url = f"{server.url}/v1/chat/completions"

    async with client.post(url, json=PROMPT) as refused:
        assert refused.status == 401
    headers = {"Authorization": "Bearer secret-of-the-test"}
    async with client.post(url, json=PROMPT, headers=headers) as accepted:
        assert accepted.status == 200


async def test_short_streams_of_several_clients_all_complete(
    llamacpp_factory: LlamaCppFactory,
) -> None:
    server = await llamacpp_factory(parallel=6)
    backend = LlamaCppBackend(BackendSettings(kind="llamacpp", url=server.url))
    try:
        outcomes = await run_streams(backend, streams=300, clients=6)
    finally:
        await backend.close()

    assert outcomes == {"completed": 300}


INVALID_REQUESTS: dict[str, dict[str, Any]] = {
    "unknown tool type": {"tools": [{"type": "x"}]},
    "tools of the wrong type": {"tools": "x"},
    "missing role": {"messages": [{"content": "hi"}]},
    "role of the wrong type": {"messages": [{"role": 7, "content": "hi"}]},
    "unknown reasoning format": {"reasoning_format": "bad"},
    "grammar that no output matches": {"grammar": "root ::= [z-a]"},
    "schema and grammar": {"json_schema": {"type": "object"}, "grammar": 'root ::= "a"'},
}


@pytest.mark.parametrize("name", INVALID_REQUESTS)
async def test_invalid_request_with_status_500_is_the_clients_error(
    llamacpp_server: LlamaCppProcess, client: aiohttp.ClientSession, name: str
) -> None:
    url, request = f"{llamacpp_server.url}/v1/chat/completions", PROMPT | INVALID_REQUESTS[name]
    headers = {"Connection": "close"}

    async with client.post(url, json=request, headers=headers) as response:
        status, body = response.status, await response.read()

    assert status == 500
    assert code_for_status(status, body) is ErrorCode.BAD_REQUEST


async def test_grammars_and_schemas_within_the_bounds_do_not_stall_the_server(
    llamacpp_server: LlamaCppProcess,
) -> None:
    backend = LlamaCppBackend(BackendSettings(kind="llamacpp", url=llamacpp_server.url))
    without_space = {"logit_bias": [[text, False] for text in (" ", "  ", "\n", "\n\n", "\t")]}
    fields: list[dict[str, Any]] = [{"grammar": text} for text in FAST_GRAMMARS.values()]
    fields += [{"json_schema": schema} for schema in FAST_SCHEMAS.values()]
    try:
        for one in fields:
            request = msgspec.json.encode(PROMPT | without_space | one)
            sink = CollectingSink()
            await backend.execute(Job(bytes(16), "tiny", "openai", request, 60_000), sink)
            assert sink.usage.output_tokens
    finally:
        await backend.close()


@pytest.mark.parametrize("stream", [True, False])
async def test_lower_bound_of_the_output_covers_all_choices_although_the_usage_covers_one(
    llamacpp_server: LlamaCppProcess, stream: bool
) -> None:
    backend = LlamaCppBackend(BackendSettings(kind="llamacpp", url=llamacpp_server.url))
    request = msgspec.json.encode(PROMPT | {"n": 3, "max_tokens": 200, "stream": stream})
    sink = CollectingSink()
    try:
        await backend.execute(Job(bytes(16), "tiny", "openai", request, 60_000), sink)
    finally:
        await backend.close()

    assert sink.outcome is not None
    assert sink.usage.output_tokens == 200
    # A stream has an event per token. A body has only the texts, whose tokens are underestimated.
    assert sink.outcome.least_output_tokens > (550 if stream else 300)


async def test_response_ends_early_if_the_model_generates_an_end_token(
    llamacpp_factory: LlamaCppFactory, client: aiohttp.ClientSession
) -> None:
    server = await llamacpp_factory(stops=True)
    request = PROMPT | {"max_tokens": 1000, "seed": 1}

    async with client.post(f"{server.url}/v1/chat/completions", json=request) as response:
        answer = await response.json()

    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_adapter_reads_features_state_and_speeds(
    llamacpp_factory: LlamaCppFactory, client: aiohttp.ClientSession
) -> None:
    server = await llamacpp_factory()
    backend = create_backend(BackendSettings(kind="llamacpp", url=server.url))
    try:
        (model,) = await backend.list_models()
        before = await backend.load()
        message = {"role": "user", "content": "word " * 60}
        request = PROMPT | {"max_tokens": 100, "messages": [message]}
        async with client.post(f"{server.url}/v1/chat/completions", json=request) as response:
            assert (await response.json())["usage"]["prompt_tokens"] >= MIN_TOKENS
        after = await backend.load()
    finally:
        await backend.close()

    assert (model.input_kinds, model.tools) == (frozenset({"text"}), False)
    assert before is not None
    assert before.models == {"tiny": ModelServerLoad(ModelState.LOADED, running=0, waiting=0)}
    assert after is not None
    assert (after.models["tiny"].prefill_tokens_per_second or 0) > 0
    assert (after.models["tiny"].decode_tokens_per_second or 0) > 0


@pytest.mark.parametrize("api_key", [None, "secret-of-the-test"])
async def test_server_is_discovered_as_llamacpp(
    api_key: str | None, llamacpp_factory: LlamaCppFactory
) -> None:
    server = await llamacpp_factory(api_key=api_key)
    port = int(server.url.rpartition(":")[2])

    assert await find_local_servers([port]) == [FoundServer("llamacpp", server.url)]


async def test_stop_ends_the_process_and_can_be_repeated(tiny_model: Path) -> None:
    server = LlamaCppProcess(tiny_model)
    await server.start()
    pid = server.pid
    assert pid is not None

    await server.stop()
    await server.stop()

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(RuntimeError, match="is not running"):
        _ = server.url


async def test_stop_kills_a_hanging_server(tiny_model: Path) -> None:
    server = LlamaCppProcess(tiny_model)
    await server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)

    await server.stop(grace_s=0.01)

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_stopped_server_can_be_started_again(tiny_model: Path) -> None:
    server = LlamaCppProcess(tiny_model)
    await server.start()
    await server.stop()

    async with server:
        assert server.url.startswith("http://127.0.0.1:")
        with pytest.raises(RuntimeError, match="is already running"):
            await server.start()


async def test_failed_start_reports_the_cause(tmp_path: Path) -> None:
    server = LlamaCppProcess(tmp_path / "nothing.gguf")

    with pytest.raises(LlamaCppStartError, match=r"nothing\.gguf"):
        await server.start()

    assert server.pid is None


async def test_slow_start_times_out(tiny_model: Path) -> None:
    server = LlamaCppProcess(tiny_model)

    with pytest.raises(LlamaCppStartError, match=r"not ready within 0\.001 s"):
        await server.start(start_s=0.001)

    assert server.pid is None


async def test_server_exits_when_its_standard_input_closes(tiny_model: Path) -> None:
    """Otherwise a killed test run or demo would leave the server behind."""
    server = LlamaCppProcess(tiny_model)
    await server.start()
    process = server._process
    assert process is not None
    assert process.stdin is not None

    process.stdin.close()

    assert await process.wait() == 0
    await server.stop()
