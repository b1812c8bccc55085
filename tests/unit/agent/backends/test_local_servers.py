import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from provider_agent.adapters.registry import BUILT_IN_KINDS
from provider_agent.agent.backends.local_servers import (
    PRODUCTS,
    FoundServer,
    ProbeResponse,
    find_local_servers,
    identify_lmstudio_models,
    identify_models,
    identify_props,
    identify_server,
    identify_tags,
    identify_version,
)

JsonObject = dict[str, Any]
UNKNOWN_ROUTE: JsonObject = {"error": "Unexpected endpoint or method."}
"""LM Studio's response to an unknown path, with status 200."""


def models_owned_by(owner: str) -> JsonObject:
    return {"object": "list", "data": [{"id": "acme", "object": "model", "owned_by": owner}]}


OLLAMA_TAGS: JsonObject = {"models": [{"name": "acme:8b", "digest": "ab12"}]}
LMSTUDIO_MODEL = {"type": "llm", "key": "acme/acme-8b", "loaded_instances": []}
LMSTUDIO_OLD_MODEL = {"id": "acme", "object": "model", "type": "llm", "state": "loaded"}


def respond(body: JsonObject, status: int = 200, server: str = "") -> ProbeResponse:
    return ProbeResponse(status, server, body)


@asynccontextmanager
async def serve(
    routes: Mapping[str, JsonObject | int], *, otherwise: JsonObject | int = 404
) -> AsyncIterator[int]:
    """Serve each path with a JSON object, or a status and no body; yield the port."""

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
    ("response", "kind"),
    [
        (respond(models_owned_by("vllm")), "vllm"),
        (respond(models_owned_by("llamacpp")), "llamacpp"),
        (respond(models_owned_by("sglang")), "sglang"),
        (respond({"error": {"message": "Loading model"}}, 503, "llama.cpp"), "llamacpp"),
        (respond(models_owned_by("library")), None),
        (respond({"data": [1, "two", None, {"owned_by": ["vllm"]}]}), None),
        (respond({"data": "models"}), None),
        (respond({}), None),
    ],
)
def test_identify_models_reads_the_owner_and_the_server_header(
    response: ProbeResponse, kind: str | None
) -> None:
    assert identify_models(response) == kind


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (respond({"default_generation_settings": {}}), "llamacpp"),
        (respond({"role": "router"}), "llamacpp"),
        (respond({"default_generation_settings": {}}, 404), None),
        (respond(UNKNOWN_ROUTE), None),
    ],
)
def test_identify_props_finds_llamacpp(response: ProbeResponse, kind: str | None) -> None:
    assert identify_props(response) == kind


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (respond({"version": "0.20.0"}), "vllm"),
        (respond({"version": "0.20.0"}, 404), None),
        (respond({"version": 3}), None),
        (respond(UNKNOWN_ROUTE), None),
    ],
)
def test_identify_version_finds_vllm(response: ProbeResponse, kind: str | None) -> None:
    assert identify_version(response) == kind


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (respond(OLLAMA_TAGS), "ollama"),
        (respond({"models": [*OLLAMA_TAGS["models"], {"name": "acme:cloud"}]}), "ollama"),
        (respond({"models": ["acme"]}), None),
        (respond({"models": []}), None),
        (respond({"models": [{"name": "acme"}]}), None),
        (respond(OLLAMA_TAGS, 404), None),
        (respond(UNKNOWN_ROUTE), None),
    ],
)
def test_identify_tags_finds_ollama(response: ProbeResponse, kind: str | None) -> None:
    assert identify_tags(response) == kind


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (respond({"models": [LMSTUDIO_MODEL]}), "lmstudio"),
        (respond({"models": [], "data": []}), None),
        (respond({"data": [LMSTUDIO_OLD_MODEL]}), "lmstudio"),
        (respond({"models": [{"name": "acme"}]}), None),
        (respond({"data": ["acme"]}), None),
        (respond({"models": [LMSTUDIO_MODEL]}, 500), None),
        (respond(UNKNOWN_ROUTE), None),
    ],
)
def test_identify_lmstudio_models_checks_the_field_names_of_models(
    response: ProbeResponse, kind: str | None
) -> None:
    assert identify_lmstudio_models(response) == kind


@pytest.mark.parametrize(
    ("routes", "otherwise", "kind"),
    [
        pytest.param({"/v1/models": models_owned_by("vllm")}, 404, "vllm", id="vllm"),
        pytest.param({"/v1/models": models_owned_by("sglang")}, 404, "sglang", id="sglang"),
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
            {"/api/tags": {"models": []}, "/api/version": {"version": "0.30.1"}},
            404,
            "ollama",
            id="ollama without models",
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
async def test_a_server_is_identified_by_its_responses(
    routes: dict[str, JsonObject | int], otherwise: JsonObject | int, kind: str
) -> None:
    async with serve(routes, otherwise=otherwise) as port:
        found = await find_local_servers([port])

    assert found == [FoundServer(kind, f"http://127.0.0.1:{port}")]


@pytest.mark.parametrize(
    "otherwise",
    [
        404,
        500,
        302,
        401,
        UNKNOWN_ROUTE,
        {"data": [], "models": {}},
        {"models": []},
        {"version": "1.0"},
    ],
)
async def test_another_program_on_the_port_is_ignored(otherwise: JsonObject | int) -> None:
    async with serve({}, otherwise=otherwise) as port:
        assert await find_local_servers([port]) == []


async def test_found_servers_are_in_the_order_of_the_ports(unused_tcp_port: int) -> None:
    ollama = {"/api/tags": OLLAMA_TAGS}
    vllm = {"/v1/models": models_owned_by("vllm")}
    async with serve(ollama) as first, serve(vllm) as second:
        found = await find_local_servers([first, unused_tcp_port, second])

    assert [server.product for server in found] == ["ollama", "vllm"]


async def test_a_port_that_never_answers_times_out() -> None:
    closed = asyncio.Event()

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        writer.close()
        closed.set()

    async with await asyncio.start_server(ignore, "127.0.0.1", 0) as silent:
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
    ids=["not http", "a list", "not json", "too big", "nothing"],
)
async def test_an_invalid_response_is_ignored(reply: bytes) -> None:
    async def reply_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(reply)
        writer.close()

    async with await asyncio.start_server(reply_and_close, "127.0.0.1", 0) as server:
        assert await find_local_servers([server.sockets[0].getsockname()[1]]) == []


@pytest.mark.parametrize("product", PRODUCTS)
def test_every_product_has_a_built_in_kind(product: str) -> None:
    assert FoundServer(product, "http://127.0.0.1:8000").kind in BUILT_IN_KINDS


async def test_address_that_cannot_be_dialed_is_no_error() -> None:
    assert await identify_server("http://", timeout_s=1.0) is None
