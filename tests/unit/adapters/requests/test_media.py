"""URLs in messages: a native server would fetch them from the operator's network."""

from contextlib import nullcontext

import msgspec
import pytest

from provider_agent.adapters.base import BadRequest, MediaUrls, Operation
from tests.unit.adapters.requests.prepared import NATIVE_KINDS, body, raw_body

CHAT, RESPONSES, ANTHROPIC = Operation.CHAT, Operation.RESPONSES, Operation.MESSAGES


def request_with(operation: Operation, part: object) -> dict[str, object]:
    name = "input" if operation is RESPONSES else "messages"
    return {name: [{"role": "user", "content": [part]}]}


def parts(url: str) -> list[tuple[Operation, object]]:
    """Return every part of a message that can hold a URL."""
    source = {"type": "url", "url": url}
    return [
        *(
            (CHAT, {"type": kind, kind: value})
            for kind in ("image_url", "audio_url", "video_url")
            for value in ({"url": url}, url)
        ),
        (RESPONSES, {"type": "input_image", "image_url": url}),
        (RESPONSES, {"type": "input_file", "file_url": url}),
        (ANTHROPIC, {"type": "image", "source": source}),
        (ANTHROPIC, {"type": "document", "source": source}),
        (
            ANTHROPIC,
            {
                "type": "tool_result",
                "tool_use_id": "1",
                "content": [{"type": "image", "source": source}],
            },
        ),
    ]


ADDRESSES = (
    *("http://169.254.169.254/latest/meta-data", "https://example.com/a.png", "file:///etc/passwd"),
    *("HTTP://10.0.0.1", " http://10.0.0.1", "//10.0.0.1", "10.0.0.1", "", "ftp://10.0.0.1"),
    *("Data:,x", "\tdata:,x", "http://10.0.0.1/?data:", "\u0000http://10.0.0.1"),
)


@pytest.mark.parametrize("url", ADDRESSES)
def test_native_server_gets_no_url_that_it_would_fetch(url: str) -> None:
    for operation, part in parts(url):
        for kind in NATIVE_KINDS:
            with pytest.raises(BadRequest, match="accepts only URLs that begin with data:"):
                body(kind, request_with(operation, part), operation)


def test_data_urls_pass_everywhere() -> None:
    for operation, part in parts("data:image/png;base64,AAAA"):
        request = request_with(operation, part)
        for kind in (*NATIVE_KINDS, "openrouter"):
            if kind == "openrouter" and ("input_file" in str(part) or "document" in str(part)):
                continue  # files and documents cost extra there
            assert body(kind, request, operation) == request


def test_web_urls_pass_to_remote_services_and_if_the_operator_allows_them() -> None:
    for operation, part in parts("https://example.com/a.png"):
        request = request_with(operation, part)
        assert body("vllm", request, operation, media_urls=MediaUrls.ANY) == request
        if operation is CHAT:
            assert body("venice", request, operation) == request
            with pytest.raises(BadRequest):
                body("venice", request, operation, media_urls=MediaUrls.DATA)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x", "HTTPS://x", "/etc/passwd"])
def test_other_schemes_never_pass(url: str) -> None:
    for operation, part in parts(url):
        with pytest.raises(BadRequest):
            body("vllm", request_with(operation, part), operation, media_urls=MediaUrls.ANY)


@pytest.mark.parametrize("data", ["http://10.0.0.1/a.wav", "file:///x", "/../x", "C:\\x"])
def test_data_is_not_a_url(data: str) -> None:
    """A server that accepts a URL in `data`, too, would fetch it."""
    source = {"type": "base64", "media_type": "image/png", "data": data}
    for operation, part in [
        (CHAT, {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}),
        (CHAT, {"type": "file", "file": {"file_data": data}}),
        (ANTHROPIC, {"type": "image", "source": source}),
    ]:
        with pytest.raises(BadRequest, match="base64"):
            body("vllm", request_with(operation, part), operation)


@pytest.mark.parametrize("data", ["/9j/4AAQ", "A" * 59 + "/AAA"])
def test_base64_with_escaped_slashes_passes(data: str) -> None:
    # PHP escapes every slash. A JPEG from a PHP client was refused as "not base64".
    source = {"type": "base64", "media_type": "image/jpeg", "data": data}
    request = msgspec.json.encode(request_with(ANTHROPIC, {"type": "image", "source": source}))
    escaped = data.replace("/", "\\/").encode()

    assert escaped in raw_body("vllm", request.replace(data.encode(), escaped), ANTHROPIC)


@pytest.mark.parametrize("data", [rb"http:\/\/10.0.0.1", rb"http\u003a\/\/10.0.0.1", rb"\\\/x"])
def test_escaped_url_is_not_base64(data: bytes) -> None:
    part = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    request = msgspec.json.encode(request_with(CHAT, part)).replace(b"AAAA", data)

    with pytest.raises(BadRequest, match="base64"):
        raw_body("vllm", request)


@pytest.mark.parametrize(("size", "passes"), [(10, True), (9_000, False)])
def test_data_url_with_an_escaped_scheme_passes_if_it_is_short(size: int, passes: bool) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * size}}
    escaped = msgspec.json.encode(request_with(CHAT, part)).replace(b"data:", b"d\\u0061ta:")

    with nullcontext() if passes else pytest.raises(BadRequest):
        assert b"d\\u0061ta:" in raw_body("vllm", escaped)


def test_search_results_contain_only_text() -> None:
    text = {"type": "text", "text": "x"}
    image = {"type": "image", "source": {"type": "url", "url": "http://10.0.0.1"}}
    found = {"type": "search_result", "source": "http://a.example", "title": "t"}
    request = request_with(ANTHROPIC, {**found, "content": [text]})

    assert body("vllm", request, ANTHROPIC) == request
    for wrong in ({"content": [image]}, {"source": image["source"], "content": [text]}):
        with pytest.raises(BadRequest, match=r"messages\.content"):
            body("vllm", request_with(ANTHROPIC, {**found, **wrong}), ANTHROPIC)
