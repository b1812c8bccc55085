import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from provider_agent.adapters.base import (
    BackendSettings,
    BadStatus,
    InvalidResponse,
    ModelNotFound,
    Transport,
)
from provider_agent.adapters.servers.openai_compatible import OpenAICompatibleBackend
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.limits import MAX_ERROR_BODY_BYTES
from tests.kit.fakes import FakeOpenAICompatible, FakeResponse, Fault, json_response
from tests.kit.fakes.openai_compatible import MODEL
from tests.kit.sink import CollectingSink
from tests.unit.adapters.conftest import Connect, a_job

KEY = "sk-operator-0123456789"


@pytest.fixture
async def server() -> AsyncIterator[FakeOpenAICompatible]:
    async with FakeOpenAICompatible(api_key=KEY) as running:
        yield running


async def test_redirect_is_not_followed(server: FakeOpenAICompatible, connect: Connect) -> None:
    server.script_jobs(FakeResponse(status=307, headers={"Location": server.url + "/elsewhere"}))

    with pytest.raises(BadStatus) as caught:
        await connect(server).execute(a_job(MODEL), CollectingSink())

    assert caught.value.code is ErrorCode.INVALID_RESPONSE
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


async def test_no_authorization_header_is_sent_without_a_key(connect: Connect) -> None:
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


@pytest.mark.parametrize("fault", [Fault.HANG_BEFORE_HEADERS, Fault.HANG_AFTER_FIRST_CHUNK])
async def test_close_fails_running_jobs(
    server: FakeOpenAICompatible, connect: Connect, fault: Fault
) -> None:
    # An HTTP client closes idle connections only, so `close` has to fail the jobs itself.
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


@pytest.mark.parametrize("fault", [Fault.HANG_BEFORE_HEADERS, Fault.HANG_AFTER_HEADERS])
async def test_job_cancelled_before_its_output_counts_its_prompt(
    server: FakeOpenAICompatible, connect: Connect, fault: Fault
) -> None:
    server.script_jobs(fault)
    sink = CollectingSink()
    running = asyncio.create_task(connect(server).execute(a_job(MODEL), sink))
    await server.wait_for_job()

    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert sink.outcome is not None
    assert sink.outcome.least_input_tokens > 0


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
async def test_compressed_response_is_rejected(
    server: FakeOpenAICompatible, connect: Connect, content_type: str
) -> None:
    compressed = FakeResponse((b"\x1f\x8b",), 200, content_type, {"Content-Encoding": "gzip"})
    server.script_jobs(compressed)
    sink = CollectingSink()

    with pytest.raises(InvalidResponse, match="compressed"):
        await connect(server).execute(a_job(MODEL), sink)

    assert sink.status is None
    assert server.jobs[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("add_usage", [True, False])
async def test_usage_is_requested_from_the_server_only_if_the_job_allows_it(
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


def test_repr_is_class_and_id() -> None:
    backend = OpenAICompatibleBackend(BackendSettings(kind="openai_compatible", url="http://h"))

    assert repr(backend) == "<OpenAICompatibleBackend openai_compatible:http://h>"
