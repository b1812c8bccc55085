import pytest

from provider_agent.protocol.frames import ResponseHeader
from provider_agent.protocol.response_headers import (
    MAX_VALUE_CHARS,
    client_headers,
    valid_content_type,
)


def test_only_known_headers_are_forwarded_in_lower_case() -> None:
    headers = {
        "Content-Type": "text/event-stream",
        "X-Request-Id": "r-1",
        "OpenAI-Processing-MS": "17",
        "retry-after": "2",
    }

    assert client_headers(headers.items()) == [
        ResponseHeader("openai-processing-ms", "17"),
        ResponseHeader("retry-after", "2"),
        ResponseHeader("x-request-id", "r-1"),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "Set-Cookie",
        "x-ratelimit-remaining-tokens",
        "anthropic-ratelimit-requests-remaining",
        "openai-organization",
        "anthropic-organization-id",
        "x-venice-balance-usd",
        "CF-RAY",
        "Server",
    ],
)
def test_other_headers_of_a_server_are_not_forwarded(name: str) -> None:
    assert client_headers([(name, "private")]) == []


@pytest.mark.parametrize(
    "value", ["", "a\r\nb: c", "\x00", "\udcff", "é", "x" * (MAX_VALUE_CHARS + 1)]
)
def test_value_that_cannot_be_forwarded_is_left_out(value: str) -> None:
    assert client_headers([("x-request-id", value), ("request-id", "ok")]) == [
        ResponseHeader("request-id", "ok")
    ]


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("text/event-stream; charset=utf-8", "text/event-stream; charset=utf-8"),
        ("", "application/octet-stream"),
        ("text/plain\udcff", "application/octet-stream"),
        ("text/plain\r\nset-cookie: a=b", "application/octet-stream"),
        ("x" * 513, "application/octet-stream"),
    ],
)
def test_content_type_that_cannot_be_forwarded_is_replaced(value: str, sent: str) -> None:
    # In an earlier version, a content type with the byte 0xFF crashed the agent.
    assert valid_content_type(value) == sent
