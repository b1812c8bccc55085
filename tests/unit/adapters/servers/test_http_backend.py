import asyncio
import netrc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from provider_agent.adapters.base import (
    Backend,
    BackendModel,
    BackendSettings,
    BackendTimeout,
    BadStatus,
    InvalidResponse,
    Job,
    ModelNotFound,
    Operation,
    Transport,
    Unreachable,
)
from provider_agent.adapters.servers import http_backend as http
from provider_agent.adapters.servers.http_backend import HttpBackend
from provider_agent.adapters.servers.model_selection import select_models
from provider_agent.adapters.servers.openai_compatible import OpenAICompatibleBackend
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.limits import MAX_ERROR_BODY_BYTES
from tests.kit.fakes import FakeOpenAICompatible, FakeOpenRouter, FakeResponse, Fault, json_response
from tests.kit.fakes.openai_compatible import MODEL
from tests.kit.sink import CollectingSink
from tests.unit.adapters.conftest import Connect, a_job

KEY = "sk-operator-0123456789"

ConnectionHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenAICompatible]:
    async with FakeOpenAICompatible(api_key=KEY) as running:
        yield running


@asynccontextmanager
async def raw_server(handler: ConnectionHandler) -> AsyncIterator[HttpBackend]:
    """A backend whose server is the coroutine function `handler`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    settings = BackendSettings(kind="openai_compatible", url=f"http://127.0.0.1:{port}")
    backend = OpenAICompatibleBackend(settings)
    try:
        yield backend
    finally:
        await backend.close()
        listening.close()
        await listening.wait_closed()


def http_backend(backend: Backend) -> HttpBackend:
    assert isinstance(backend, HttpBackend)
    return backend


# --- jobs -----------------------------------------------------------------------------------------


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return head + await reader.readexactly(length)


def response(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def test_closed_idle_connection_is_replaced() -> None:
    connections: list[list[bytes]] = []

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests: list[bytes] = []
        connections.append(requests)
        requests.append(await read_request(reader))
        writer.write(response(b'{"choices":[]}'))
        if len(connections) == 1:
            # Closed only after the next request was sent: a race that the client cannot avoid.
            requests.append(await read_request(reader))
            return
        await reader.read()

    async with raw_server(answer_once) as backend:
        for _ in range(2):
            await backend.execute(a_job("m", stream=False), CollectingSink())

    assert [len(requests) for requests in connections] == [2, 1]
    assert (
        connections[0][1].partition(b"\r\n\r\n")[2] == connections[1][0].partition(b"\r\n\r\n")[2]
    )


async def test_request_to_a_server_that_always_closes_is_retried_once() -> None:
    asked = 0

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await read_request(reader)
        asked += 1

    async with raw_server(close) as backend:
        with pytest.raises(Transport):
            await backend.execute(a_job("m"), CollectingSink())

    assert asked == 2


async def test_response_that_is_not_http_is_invalid() -> None:
    async def gibberish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")

    async with raw_server(gibberish) as backend:
        with pytest.raises(InvalidResponse):
            await backend.execute(a_job("m"), CollectingSink())


async def test_redirect_is_not_followed(server: FakeOpenAICompatible, connect: Connect) -> None:
    server.script_jobs(FakeResponse(status=307, headers={"Location": server.url + "/elsewhere"}))

    with pytest.raises(BadStatus) as caught:
        await connect(server).execute(a_job(MODEL), CollectingSink())

    assert caught.value.code is ErrorCode.INVALID_RESPONSE
    assert server.requests_to("/elsewhere") == []


async def test_api_request_does_not_follow_redirects(
    server: FakeOpenAICompatible, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = FakeResponse(status=302, headers={"Location": server.url + "/elsewhere"})
    monkeypatch.setattr(server, "respond", lambda _: elsewhere)

    assert not (await connect(server).health()).reachable
    assert server.requests_to("/elsewhere") == []


async def test_cookies_are_not_stored(server: FakeOpenAICompatible, connect: Connect) -> None:
    backend = connect(server)
    server.script_jobs(json_response({"choices": []}, headers={"Set-Cookie": "session=1; Path=/"}))

    for _ in range(2):
        await backend.execute(a_job(MODEL, stream=False), CollectingSink())

    assert "cookie" not in server.jobs[1].headers


async def test_traceparent_of_a_job_is_forwarded(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    job = msgspec.structs.replace(a_job(MODEL), traceparent=trace)

    await connect(server).execute(job, CollectingSink())

    headers = server.jobs[0].headers
    assert headers["traceparent"] == trace
    assert headers["x-request-id"] == job.job_id.hex()


async def test_no_authorization_header_without_a_key(connect: Connect) -> None:
    async with FakeOpenAICompatible() as server:
        await connect(server).execute(a_job(MODEL), CollectingSink())

    assert "authorization" not in server.jobs[0].headers


async def test_unknown_operation_is_rejected_before_sending(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    job = msgspec.structs.replace(a_job(MODEL), operation="paint")

    with pytest.raises(ModelNotFound):
        await connect(server).execute(job, CollectingSink())

    assert server.requests == []


async def test_error_body_is_bounded_and_redacted(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    filler = "word " * 100_000
    server.script_jobs(json_response({"error": f"your key {KEY} is fine. {filler}"}, 500))

    with pytest.raises(BadStatus) as caught:
        await connect(server).execute(a_job(MODEL), CollectingSink())

    assert len(caught.value.body) <= MAX_ERROR_BODY_BYTES
    assert b"is fine" in caught.value.body
    assert KEY.encode() not in caught.value.body


async def test_error_in_a_successful_response_is_redacted(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    server.script_jobs(json_response({"error": f"your key {KEY} is fine"}))

    with pytest.raises(Exception, match="inside its response") as caught:
        await connect(server).execute(a_job(MODEL, stream=False), CollectingSink())

    assert KEY not in repr(caught.value)
    assert KEY.encode() not in getattr(caught.value, "body", b"")


async def test_truncated_error_body_keeps_its_status() -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 100\r\n\r\n{half")

    async with raw_server(break_off) as backend:
        with pytest.raises(BadStatus) as caught:
            await backend.execute(a_job("m"), CollectingSink())

    assert caught.value.status == 400
    assert caught.value.body == b"{half"


@pytest.mark.parametrize("fault", [Fault.HANG_BEFORE_HEADERS, Fault.HANG_AFTER_FIRST_CHUNK])
async def test_close_fails_running_jobs(
    server: FakeOpenAICompatible, connect: Connect, fault: Fault
) -> None:
    # A closed aiohttp session leaves a reader of its responses waiting forever.
    backend = connect(server)
    server.script_jobs(fault)
    running = asyncio.create_task(backend.execute(a_job(MODEL), CollectingSink()))
    recorded = await server.wait_for_job()
    if fault is Fault.HANG_AFTER_FIRST_CHUNK:
        await recorded.started.wait()

    await backend.close()

    with pytest.raises(Transport, match="closed"):
        await running
    await recorded.disconnected.wait()


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


# --- API requests ---------------------------------------------------------------------------------


async def test_api_request_times_out(server: FakeOpenAICompatible, connect: Connect) -> None:
    backend = http_backend(connect(server))
    server.script_jobs(Fault.HANG_BEFORE_HEADERS)

    with pytest.raises(BackendTimeout):
        await backend.request("POST", "/v1/chat/completions", json={"messages": []}, timeout_s=0.05)


async def test_oversized_api_response_is_invalid(
    server: FakeOpenAICompatible, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_RESPONSE_BYTES", 1000)
    monkeypatch.setattr(server, "respond", lambda _: FakeResponse((b"x" * 600, b"x" * 401)))

    with pytest.raises(InvalidResponse, match="too big"):
        await connect(server).list_models()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"data":7}', b'{"data":[{"id":7}]}'])
async def test_api_response_of_another_shape_is_invalid(
    server: FakeOpenAICompatible, connect: Connect, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(server, "respond", lambda _: FakeResponse((body,)))

    with pytest.raises(InvalidResponse, match="expected shape"):
        await connect(server).list_models()


@pytest.mark.parametrize("url", ["http://", "nonsense", "http://[::1", "http://host:99999"])
async def test_malformed_address_is_unreachable(url: str) -> None:
    backend = OpenAICompatibleBackend(BackendSettings(kind="openai_compatible", url=url))

    with pytest.raises(Unreachable):
        await backend.list_models()
    await backend.close()


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
async def test_compressed_response_is_rejected(
    server: FakeOpenAICompatible, connect: Connect, content_type: str
) -> None:
    packed = FakeResponse((b"\x1f\x8b",), 200, content_type, {"Content-Encoding": "gzip"})
    server.script_jobs(packed)
    sink = CollectingSink()

    with pytest.raises(InvalidResponse, match="compressed"):
        await connect(server).execute(a_job(MODEL), sink)

    assert sink.status is None
    assert server.jobs[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("add_usage", [True, False])
async def test_job_can_forbid_adding_usage(
    server: FakeOpenAICompatible, connect: Connect, add_usage: bool
) -> None:
    job = msgspec.structs.replace(a_job(MODEL), add_usage=add_usage)

    await connect(server).execute(job, CollectingSink())

    assert ("stream_options" in server.jobs[0].json) is add_usage


async def test_identity_content_encoding_is_accepted(
    server: FakeOpenAICompatible, connect: Connect
) -> None:
    server.script_jobs(json_response({"choices": []}, headers={"Content-Encoding": "Identity"}))

    sink = CollectingSink()

    await connect(server).execute(a_job(MODEL, stream=False), sink)

    assert sink.data == b'{"choices":[]}'


@pytest.mark.parametrize(
    ("models", "model_id", "offered"),
    [
        (None, "any", True),
        ((), "any", False),
        (("acme-*", "tiny"), "acme-8b", True),
        (("acme-*", "tiny"), "tiny", True),
        (("acme-*", "tiny"), "Tiny", False),
        (("acme/?b",), "acme/8b", True),
        (("*",), "a/b:c", True),
    ],
)
def test_only_listed_models_are_offered(
    models: tuple[str, ...] | None, model_id: str, offered: bool
) -> None:
    settings = BackendSettings(kind="openai_compatible", url="http://h", models=models)
    model = BackendModel(
        model_id=model_id,
        context_window=None,
        native=True,
        operations=frozenset({Operation.CHAT}),
        upstream_id=model_id,
    )

    assert (select_models([model], settings)[0].withheld == "") is offered


async def test_netrc_does_not_replace_the_operators_key(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # aiohttp reads this file for passthroughs, which may need a proxy from the environment.
    file = tmp_path / "netrc"
    file.write_text("machine 127.0.0.1 login somebody password else\n")
    file.chmod(0o600)
    assert netrc.netrc(str(file)).authenticators("127.0.0.1")
    monkeypatch.setenv("NETRC", str(file))
    async with FakeOpenRouter(api_key=KEY) as server:
        assert (await connect(server).health()).reachable

    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_backend_does_not_store_jobs() -> None:
    backend = OpenAICompatibleBackend(BackendSettings(kind="openai_compatible", url="http://h"))

    assert repr(backend) == "<OpenAICompatibleBackend openai_compatible:http://h>"
    assert not any(isinstance(value, Job) for value in vars(backend).values())
