"""No job reaches an address, a model or a header that the operator did not configure.

What a request holds for the server itself (an image's URL, say) is the server's to judge; what is
tested here is that the agent asks nobody but that server, by its own route, with its own headers.
"""

import contextlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from provider_agent.adapters.base import BackendError, Operation
from provider_agent.protocol.frames import Job
from tests.kit.adapters_under_test import (
    FAKES,
    KEY,
    AdapterUnderTest,
    parametrize_adapters,
    parametrize_operations,
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
    '"model":"dear","model":"dearest"',
    '"model":"m","mod\\u0065l":"dear"',
    '"model":{"model":"dear"}',
    '"model":["dear","dearest"]',
    '"Model":"dear","MODEL":"dearest"',
    '"model":"http://evil.example/v1"',
]


def over_values(name: str, values: Sequence[object]) -> pytest.MarkDecorator:
    """Run a test with each value on one kind, and with one value on each other kind.

    All kinds share the code under test; what could differ is whether a kind uses it.
    """
    first, *others = FAKES
    pairs = [(first, value) for value in values] + [(kind, values[0]) for kind in others]
    ids = [f"{kind}-{index}" for index, (kind, _) in enumerate(pairs)]
    return pytest.mark.parametrize(("adapter", name), pairs, indirect=["adapter"], ids=ids)


async def run(adapter: AdapterUnderTest, job: Job) -> None:
    """To whatever end; a refusal is one."""
    with contextlib.suppress(BackendError):
        await adapter.backend.execute(job, CollectingSink())


def is_only_what_was_configured(
    adapter: AdapterUnderTest, recorded: RecordedRequest, operation: Operation
) -> None:
    assert adapter.server is not None
    assert recorded.method == "POST"
    assert recorded.path == adapter.server.prefix + operation.path
    assert recorded.query == {}
    assert set(recorded.headers) == HEADERS
    assert recorded.headers["host"] == urlsplit(adapter.server.url).netloc
    assert recorded.headers["authorization"] == f"Bearer {KEY}"
    assert [name for name in recorded.json if name.casefold() == "model"] == ["model"]


def smuggled(url: str) -> dict[str, Any]:
    """Fields that some client or gateway takes for an order to go elsewhere."""
    names = ["base_url", "baseUrl", "api_base", "url", "endpoint", "host", "proxy", "webhook"]
    headers = {"Authorization": "Bearer evil", "X-Evil": "1", "Host": "evil.example"}
    image = {"type": "image_url", "image_url": {"url": f"{url}/image.png"}}
    local = {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}
    return {
        **dict.fromkeys(names, url),
        **dict.fromkeys(["headers", "extra_headers", "extra_query", "default_headers"], headers),
        "extra_body": {"model": "dear", "base_url": url},
        "api_key": "evil",
        "user": CRLF,
        "MODEL": "dear",
        "tools": [{"type": "function", "function": {"name": url, "url": "file:///etc/passwd"}}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, image, local]}],
    }


@parametrize_operations(FAKES)
async def test_a_request_cannot_name_another_address_or_header(
    adapter: AdapterUnderTest, operation: Operation
) -> None:
    assert adapter.server is not None
    async with FakeOpenAICompatible() as trap:
        await adapter.backend.list_models()
        before = len(adapter.server.requests)
        await run(adapter, adapter.job_for(operation, stream=True, **smuggled(trap.url)))
        (recorded,) = adapter.server.requests[before:]
        is_only_what_was_configured(adapter, recorded, operation)
        asked = recorded.json["model"]
        wanted = adapter.job_for(operation).model_id
        assert asked in (wanted, adapter.expected.upstream_id)
        assert trap.requests == []


@over_values("fields", MODEL_FIELDS)
async def test_a_request_cannot_name_another_model(adapter: AdapterUnderTest, fields: str) -> None:
    assert adapter.server is not None
    await adapter.backend.list_models()
    job = adapter.job()
    body = b"{" + fields.encode() + b',"messages":[{"role":"user","content":"x"}],"max_tokens":5}'
    await run(adapter, msgspec.structs.replace(job, request=body))
    (recorded,) = adapter.server.jobs
    is_only_what_was_configured(adapter, recorded, Operation.CHAT)
    assert recorded.json["model"] == adapter.expected.upstream_id
    assert b"dear" not in recorded.body


@over_values("model_id", MODELS)
async def test_a_model_id_is_a_value_and_never_a_part_of_an_address(
    adapter: AdapterUnderTest, model_id: str
) -> None:
    assert adapter.server is not None
    await adapter.backend.list_models()
    await run(adapter, msgspec.structs.replace(adapter.job(), model_id=model_id))
    for recorded in adapter.server.jobs:
        is_only_what_was_configured(adapter, recorded, Operation.CHAT)
        assert recorded.json["model"] == model_id


@over_values("trace", TRACES)
async def test_a_malformed_traceparent_is_dropped(adapter: AdapterUnderTest, trace: str) -> None:
    assert adapter.server is not None
    await adapter.backend.list_models()
    await adapter.backend.execute(
        msgspec.structs.replace(adapter.job(), traceparent=trace), CollectingSink()
    )
    (recorded,) = adapter.server.jobs
    is_only_what_was_configured(adapter, recorded, Operation.CHAT)


@over_values("job", UNKNOWN_OPERATIONS)
async def test_an_unknown_operation_sends_no_request(
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
async def test_a_redirect_of_the_server_is_not_followed(adapter: AdapterUnderTest) -> None:
    """Else the server's word would take the operator's key elsewhere."""
    assert adapter.server is not None
    async with FakeOpenAICompatible() as trap:
        await adapter.backend.list_models()
        adapter.server.script_jobs(
            FakeResponse(status=307, headers={"Location": f"{trap.url}/v1/chat"})
        )
        await run(adapter, adapter.job())
        assert trap.requests == []
