"""The request of a job cannot select an address, a header, or another model than the job's own.

The agent must send the request only to the configured server and to the route of the operation, and
only with headers that the agent sets.
"""

import contextlib
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from provider_agent.adapters.base import BackendError, Operation
from provider_agent.protocol.job import Job
from tests.kit.adapters_under_test import (
    FAKES,
    KEY,
    AdapterUnderTest,
    parametrize_adapters,
    parametrize_operations,
    parametrize_values,
)
from tests.kit.fakes import FakeOpenAICompatible
from tests.kit.fakes.server import FakeResponse, RecordedRequest
from tests.kit.sink import CollectingSink

HEADERS = {
    "host",
    "user-agent",
    "content-type",
    "content-length",
    "accept",
    "accept-encoding",
    "authorization",
    "x-request-id",
}
CRLF = "x\r\nX-Evil: 1\r\n\r\nGET /admin HTTP/1.1"
GOOD_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

MODELS = [
    "../../../etc/passwd",
    "/api/delete",
    "http://169.254.169.254/latest/meta-data",
    "model?key=1&x=../#frag",
    CRLF,
    "\x00\x1b[2J",
    "x" * 512,
]
TRACES = [CRLF, GOOD_TRACE + "\r\nAuthorization: Bearer evil", "x" * 512, "\x00", "é", " "]

UNKNOWN_OPERATIONS = [
    ("openai", "../admin"),
    ("openai", "http://evil.example/"),
    ("openai", CRLF),
    ("file:///etc/passwd", ""),
    ("anthropic", "chat"),
    ("", ""),
    ("x" * 512, "x" * 512),
]
MODEL_FIELDS = [
    '"model":"expensive","model":"other-expensive"',
    '"model":"m","mod\\u0065l":"expensive"',
    '"model":{"model":"expensive"}',
    '"model":["expensive","other-expensive"]',
    '"Model":"expensive","MODEL":"other-expensive"',
    '"model":"http://evil.example/v1"',
]


async def run_job(adapter: AdapterUnderTest, job: Job) -> None:
    """Run the job and ignore its error."""
    with contextlib.suppress(BackendError):
        await adapter.backend.execute(job, CollectingSink())


def assert_configured_only(
    adapter: AdapterUnderTest, recorded: RecordedRequest, operation: Operation
) -> None:
    """Assert that the request has the configured host and key, the operation's route, only known
    headers, and exactly one `model` field.
    """
    assert adapter.server is not None
    assert recorded.method == "POST"
    assert recorded.path == adapter.server.prefix + operation.path
    assert recorded.query == {}
    # `Connection: close` goes to servers whose connections are not reused.
    assert set(recorded.headers) - {"connection"} == HEADERS
    assert recorded.headers["host"] == urlsplit(adapter.server.url).netloc
    assert recorded.headers["authorization"] == f"Bearer {KEY}"
    assert [name for name in recorded.json if name.casefold() == "model"] == ["model"]


def hostile_fields(url: str) -> dict[str, Any]:
    """Fields that some client libraries or gateways use to select another address."""
    names = ["base_url", "baseUrl", "api_base", "url", "endpoint", "host", "proxy", "webhook"]
    headers = {"Authorization": "Bearer evil", "X-Evil": "1", "Host": "evil.example"}
    return {
        **dict.fromkeys(names, url),
        **dict.fromkeys(["headers", "extra_headers", "extra_query", "default_headers"], headers),
        "extra_body": {"model": "expensive", "base_url": url},
        "api_key": "evil",
        "user": CRLF,
        "MODEL": "expensive",
        "tools": [
            {
                "type": "function",
                "name": url,
                "function": {"name": url, "url": "file:///etc/passwd"},
            }
        ],
        "messages": [{"role": "user", "content": [{"type": "text", "text": f"{url}/image.png"}]}],
    }


@parametrize_operations(FAKES)
async def test_request_cannot_select_another_address_or_header(
    adapter: AdapterUnderTest, operation: Operation
) -> None:
    assert adapter.server is not None
    async with FakeOpenAICompatible() as other_server:
        await adapter.backend.list_models()
        before = len(adapter.server.requests)
        await run_job(
            adapter, adapter.job_for(operation, stream=True, **hostile_fields(other_server.url))
        )
        (recorded,) = adapter.server.requests[before:]
        assert_configured_only(adapter, recorded, operation)
        model = recorded.json["model"]
        model_id = adapter.job_for(operation).model_id
        assert model in (model_id, adapter.expected.upstream_id)
        assert other_server.requests == []


@parametrize_values("fields", MODEL_FIELDS)
async def test_request_cannot_select_another_model(adapter: AdapterUnderTest, fields: str) -> None:
    assert adapter.server is not None
    await adapter.backend.list_models()
    job = adapter.job()
    body = b"{" + fields.encode() + b',"messages":[{"role":"user","content":"x"}],"max_tokens":5}'
    await run_job(adapter, msgspec.structs.replace(job, request=body))
    (recorded,) = adapter.server.jobs
    assert_configured_only(adapter, recorded, Operation.CHAT)
    assert recorded.json["model"] == adapter.expected.upstream_id
    assert b"expensive" not in recorded.body


@parametrize_values("model_id", MODELS)
async def test_model_id_never_becomes_part_of_the_address(
    adapter: AdapterUnderTest, model_id: str
) -> None:
    assert adapter.server is not None
    await adapter.backend.list_models()
    await run_job(adapter, msgspec.structs.replace(adapter.job(), model_id=model_id))
    for recorded in adapter.server.jobs:
        assert_configured_only(adapter, recorded, Operation.CHAT)
        assert recorded.json["model"] == model_id


@parametrize_values("trace", TRACES)
async def test_malformed_traceparent_is_dropped(adapter: AdapterUnderTest, trace: str) -> None:
    assert adapter.server is not None
    await adapter.backend.list_models()
    await adapter.backend.execute(
        msgspec.structs.replace(adapter.job(), traceparent=trace), CollectingSink()
    )
    (recorded,) = adapter.server.jobs
    assert_configured_only(adapter, recorded, Operation.CHAT)


@parametrize_values("job", UNKNOWN_OPERATIONS)
async def test_unknown_operation_sends_no_request(
    adapter: AdapterUnderTest, job: tuple[str, str]
) -> None:
    assert adapter.server is not None
    await adapter.backend.list_models()
    before = len(adapter.server.requests)
    wire_format, operation = job
    odd = msgspec.structs.replace(adapter.job(), format=wire_format, operation=operation)
    with pytest.raises(BackendError):
        await adapter.backend.execute(odd, CollectingSink())
    assert len(adapter.server.requests) == before


@parametrize_adapters(FAKES)
async def test_redirect_is_not_followed(adapter: AdapterUnderTest) -> None:
    """Following it would send the operator's key to another address."""
    assert adapter.server is not None
    async with FakeOpenAICompatible() as other_server:
        await adapter.backend.list_models()
        adapter.server.script_jobs(
            FakeResponse(status=307, headers={"Location": f"{other_server.url}/v1/chat"})
        )
        await run_job(adapter, adapter.job())
        assert other_server.requests == []
