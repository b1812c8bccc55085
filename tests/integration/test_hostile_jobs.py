"""No job reaches an address, a model or a header that the operator did not configure.

What a request holds for the server itself (an image's URL, say) is the server's to judge; what is
tested here is that the agent asks nobody but that server, by its own route, with its own headers.
"""

import contextlib
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from adapters.base import BackendError, Operation
from protocol.frames import Job
from tests.kit.fakes import FakeOpenAICompatible
from tests.kit.fakes.server import Answer, Exchange
from tests.kit.sink import CollectingSink
from tests.kit.subjects import FAKES, KEY, Subject, every_fake, over_operations

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


async def run(subject: Subject, job: Job) -> None:
    """To whatever end; a refusal is one."""
    with contextlib.suppress(BackendError):
        await subject.backend.execute(job, CollectingSink())


def is_only_what_was_configured(subject: Subject, exchange: Exchange, operation: Operation) -> None:
    assert subject.server is not None
    assert exchange.method == "POST"
    assert exchange.path == subject.server.prefix + operation.path
    assert exchange.query == {}
    assert set(exchange.headers) == HEADERS
    assert exchange.headers["host"] == urlsplit(subject.server.url).netloc
    assert exchange.headers["authorization"] == f"Bearer {KEY}"
    assert [name for name in exchange.json if name.casefold() == "model"] == ["model"]


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


@over_operations(FAKES)
async def test_a_request_cannot_name_another_address_or_header(
    subject: Subject, operation: Operation
) -> None:
    assert subject.server is not None
    async with FakeOpenAICompatible() as trap:
        await subject.backend.list_models()
        before = len(subject.server.exchanges)
        await run(subject, subject.job_for(operation, stream=True, **smuggled(trap.url)))
        (exchange,) = subject.server.exchanges[before:]
        is_only_what_was_configured(subject, exchange, operation)
        asked = exchange.json["model"]
        wanted = subject.job_for(operation).model_id
        assert asked in (wanted, subject.expected.upstream_id)
        assert trap.exchanges == []


@every_fake
@pytest.mark.parametrize(
    "fields",
    [
        '"model":"dear","model":"dearest"',
        '"model":"m","mod\\u0065l":"dear"',
        '"model":{"model":"dear"}',
        '"model":["dear","dearest"]',
        '"Model":"dear","MODEL":"dearest"',
        '"model":"http://evil.example/v1"',
    ],
)
async def test_a_request_cannot_name_another_model(subject: Subject, fields: str) -> None:
    assert subject.server is not None
    await subject.backend.list_models()
    job = subject.job()
    body = b"{" + fields.encode() + b',"messages":[{"role":"user","content":"x"}],"max_tokens":5}'
    await run(subject, msgspec.structs.replace(job, request=body))
    (exchange,) = subject.server.jobs
    is_only_what_was_configured(subject, exchange, Operation.CHAT)
    assert exchange.json["model"] == subject.expected.upstream_id
    assert b"dear" not in exchange.body


@every_fake
@pytest.mark.parametrize("model_id", MODELS, ids=range(len(MODELS)))
async def test_a_model_id_is_a_value_and_never_a_part_of_an_address(
    subject: Subject, model_id: str
) -> None:
    assert subject.server is not None
    await subject.backend.list_models()
    await run(subject, msgspec.structs.replace(subject.job(), model_id=model_id))
    for exchange in subject.server.jobs:
        is_only_what_was_configured(subject, exchange, Operation.CHAT)
        assert exchange.json["model"] == model_id


@every_fake
@pytest.mark.parametrize("trace", TRACES, ids=range(len(TRACES)))
async def test_a_trace_that_is_none_is_no_header(subject: Subject, trace: str) -> None:
    assert subject.server is not None
    await subject.backend.list_models()
    await subject.backend.execute(
        msgspec.structs.replace(subject.job(), traceparent=trace), CollectingSink()
    )
    (exchange,) = subject.server.jobs
    is_only_what_was_configured(subject, exchange, Operation.CHAT)


@every_fake
@pytest.mark.parametrize(
    ("wire_format", "operation"),
    [
        ("openai", "../admin"),
        ("openai", "http://evil.example/"),
        ("openai", CRLF),
        ("file:///etc/passwd", ""),
        ("anthropic", "chat"),
        ("", ""),
        ("x" * 512, "x" * 512),
    ],
)
async def test_an_unknown_operation_is_no_request(
    subject: Subject, wire_format: str, operation: str
) -> None:
    assert subject.server is not None
    await subject.backend.list_models()
    before = len(subject.server.exchanges)
    odd = msgspec.structs.replace(subject.job(), format=wire_format, operation=operation)
    with pytest.raises(BackendError):
        await subject.backend.execute(odd, CollectingSink())
    assert len(subject.server.exchanges) == before


@every_fake
async def test_a_redirect_of_the_server_is_not_followed(subject: Subject) -> None:
    """Else the server's word would take the operator's key elsewhere."""
    assert subject.server is not None
    async with FakeOpenAICompatible() as trap:
        await subject.backend.list_models()
        subject.server.next_job(Answer(status=307, headers={"Location": f"{trap.url}/v1/chat"}))
        await run(subject, subject.job())
        assert trap.exchanges == []
