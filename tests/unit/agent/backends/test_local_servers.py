import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from provider_agent.agent.backends.local_servers import (
    FoundServer,
    ProbeResponse,
    find_local_servers,
    identify_lmstudio_models,
    identify_models,
    identify_props,
    identify_tags,
    identify_version,
)

JsonObject = dict[str, Any]
UNKNOWN_ROUTE: JsonObject = {"error": "Unexpected endpoint or method."}


def models_owned_by(owner: str) -> JsonObject:
    return {"object": "list", "data": [{"id": "acme", "object": "model", "owned_by": owner}]}


OLLAMA_TAGS: JsonObject = {"models": [{"name": "acme:8b", "digest": "ab12"}]}
LMSTUDIO_MODEL = {"type": "llm", "key": "acme/acme-8b", "loaded_instances": []}
LMSTUDIO_OLD_MODEL = {"id": "acme", "object": "model", "type": "llm", "state": "loaded"}


def answer(body: JsonObject, status: int = 200, server: str = "") -> ProbeResponse:
    return ProbeResponse(status, server, body)


@asynccontextmanager
async def serving(
    routes: Mapping[str, JsonObject | int], *, otherwise: JsonObject | int = 404
) -> AsyncIterator[int]:
    """The port of a server that answers these paths with a JSON object or a status alone."""

    async def handle(request: web.Request) -> web.Response:
        reply = routes.get(request.path, otherwise)
        if isinstance(reply, int):
            return web.Response(status=reply)
        return web.json_response(reply)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with TestServer(app, host="127.0.0.1") as server:
        assert server.port is not None
        yield server.port


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (answer(models_owned_by("vllm")), "vllm"),
        (answer(models_owned_by("llamacpp")), "llamacpp"),
        (answer({"error": {"message": "Loading model"}}, 503, "llama.cpp"), "llamacpp"),
        (answer(models_owned_by("library")), None),
        (answer({"data": [1, "two", None, {"owned_by": ["vllm"]}]}), None),
        (answer({"data": "models"}), None),
        (answer({}), None),
    ],
)
def test_a_list_of_models_tells_its_server(given: ProbeResponse, kind: str | None) -> None:
    assert identify_models(given) == kind


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (answer({"default_generation_settings": {}}), "llamacpp"),
        (answer({"role": "router"}), "llamacpp"),
        (answer({"default_generation_settings": {}}, 404), None),
        (answer(UNKNOWN_ROUTE), None),
    ],
)
def test_props_tell_llamacpp(given: ProbeResponse, kind: str | None) -> None:
    assert identify_props(given) == kind


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (answer({"version": "0.20.0"}), "vllm"),
        (answer({"version": "0.20.0"}, 404), None),
        (answer({"version": 3}), None),
        (answer(UNKNOWN_ROUTE), None),
    ],
)
def test_a_version_tells_vllm(given: ProbeResponse, kind: str | None) -> None:
    assert identify_version(given) == kind


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (answer(OLLAMA_TAGS), "ollama"),
        (answer({"models": []}), None),
        (answer({"models": [{"name": "acme"}]}), None),
        (answer(OLLAMA_TAGS, 404), None),
        (answer(UNKNOWN_ROUTE), None),
    ],
)
def test_tags_tell_ollama(given: ProbeResponse, kind: str | None) -> None:
    assert identify_tags(given) == kind


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (answer({"models": [LMSTUDIO_MODEL]}), "lmstudio"),
        (answer({"models": [], "data": []}), None),
        (answer({"data": [LMSTUDIO_OLD_MODEL]}), "lmstudio"),
        (answer({"models": [{"name": "acme"}]}), None),
        (answer({"data": ["acme"]}), None),
        (answer({"models": [LMSTUDIO_MODEL]}, 500), None),
        (answer(UNKNOWN_ROUTE), None),
    ],
)
def test_lmstudio_is_told_by_the_shape_of_its_models(
    given: ProbeResponse, kind: str | None
) -> None:
    assert identify_lmstudio_models(given) == kind


@pytest.mark.parametrize(
    ("routes", "otherwise", "kind"),
    [
        pytest.param({"/v1/models": models_owned_by("vllm")}, 404, "vllm", id="vllm"),
        pytest.param(
            {"/v1/models": 401, "/version": {"version": "0.20.0"}},
            404,
            "vllm",
            id="vllm with a key",
        ),
        pytest.param(
            {"/v1/models": models_owned_by("library"), "/api/tags": OLLAMA_TAGS},
            404,
            "ollama",
            id="ollama",
        ),
        pytest.param(
            {"/api/v1/models": {"models": [LMSTUDIO_MODEL]}},
            UNKNOWN_ROUTE,
            "lmstudio",
            id="lmstudio",
        ),
        pytest.param(
            {"/api/v0/models": {"data": [LMSTUDIO_OLD_MODEL]}},
            UNKNOWN_ROUTE,
            "lmstudio",
            id="lmstudio before 0.4",
        ),
        pytest.param(
            {"/props": {"default_generation_settings": {}}}, 404, "llamacpp", id="llamacpp"
        ),
    ],
)
async def test_a_server_is_found_by_its_answers(
    routes: dict[str, JsonObject | int], otherwise: JsonObject | int, kind: str
) -> None:
    async with serving(routes, otherwise=otherwise) as port:
        found = await find_local_servers([port])

    assert found == [FoundServer(kind, f"http://127.0.0.1:{port}")]


@pytest.mark.parametrize(
    "otherwise",
    [404, 500, 302, 401, UNKNOWN_ROUTE, {"data": [], "models": {}}, {"version": "1.0"}],
)
async def test_another_program_on_the_port_is_left_alone(otherwise: JsonObject | int) -> None:
    async with serving({}, otherwise=otherwise) as port:
        assert await find_local_servers([port]) == []


async def test_what_was_found_keeps_the_order_of_the_ports(unused_tcp_port: int) -> None:
    ollama = {"/api/tags": OLLAMA_TAGS}
    vllm = {"/v1/models": models_owned_by("vllm")}
    async with serving(ollama) as first, serving(vllm) as second:
        found = await find_local_servers([first, unused_tcp_port, second])

    assert [server.kind for server in found] == ["ollama", "vllm"]


async def test_a_port_that_never_answers_holds_up_nothing() -> None:
    closed = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()
        closed.set()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]

        assert await find_local_servers([port], timeout_s=0.05) == []
        await closed.wait()


@pytest.mark.parametrize(
    "reply",
    [
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{'\xff'}",
        b"HTTP/1.1 200 OK\r\n\r\n" + b" " * (2 * 1024 * 1024),
        b"",
    ],
    ids=["not http", "a list", "not json", "endless", "nothing"],
)
async def test_garbage_is_no_server(reply: bytes) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(reply)
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as odd:
        assert await find_local_servers([odd.sockets[0].getsockname()[1]]) == []
