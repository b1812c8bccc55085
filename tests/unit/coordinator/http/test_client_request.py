import pytest
from multidict import CIMultiDict

from provider_agent.coordinator.http.client_errors import ClientError
from provider_agent.coordinator.http.client_request import (
    RequestBody,
    parse_body,
    valid_traceparent,
)

VALID = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def parsed(body: bytes) -> RequestBody:
    fields = parse_body(body)
    assert isinstance(fields, RequestBody)
    return fields


def test_a_nested_model_is_ignored() -> None:
    assert parsed(b' {"messages":[{"model":1}],"model":"tiny"} ').model == "tiny"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ('"stream":true', True),
        ('"stream": true ', True),
        ('"stream":false', False),
        ('"stream":null', False),
        ('"stream":"true"', False),
        ('"stream":1', False),
        ('"stream":{"stream":true}', False),
        ('"other":{"stream":true}', False),
        ('"stream":true,"stream":false', False),
    ],
)
def test_only_true_requests_a_stream(fields: str, expected: bool) -> None:
    assert parsed(b'{"model":"tiny",%b}' % fields.encode()).wants_stream is expected


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"nonsense", id="not JSON"),
        pytest.param(b"[]", id="an array"),
        pytest.param(b'"tiny"', id="a string"),
        pytest.param(b"{}", id="no model"),
        pytest.param(b'{"model":1}', id="a number"),
        pytest.param(b'{"model":null}', id="null"),
        pytest.param(b'{"model":""}', id="an empty model"),
        pytest.param(b'{"model":"' + b"x" * 513 + b'"}', id="a model over 512 characters"),
        pytest.param(b'{"model":"tiny"} {}', id="two documents"),
        pytest.param(b'{"model":"tiny"', id="truncated"),
        pytest.param(b'{"model":"\xff"}', id="invalid UTF-8"),
        pytest.param(
            b'{"model":"tiny","deep":' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="deep nesting"
        ),
    ],
)
def test_an_invalid_body_is_rejected(body: bytes) -> None:
    error = parse_body(body)
    assert isinstance(error, ClientError)
    assert (error.status, error.code) == (400, "bad_request")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param(VALID, VALID, id="valid"),
        pytest.param("", "", id="empty"),
        pytest.param(VALID.upper(), "", id="upper case"),
        pytest.param(VALID + "-more", "", id="too long"),
        pytest.param("ff" + VALID[2:], "", id="invalid version"),
        pytest.param("00-" + "0" * 32 + VALID[35:], "", id="zero trace id"),
        pytest.param(VALID[:36] + "0" * 16 + "-01", "", id="zero span id"),
    ],
)
def test_invalid_traceparent_becomes_empty(header: str, expected: str) -> None:
    assert valid_traceparent(CIMultiDict({"Traceparent": header})) == expected


def test_missing_traceparent_becomes_empty() -> None:
    assert valid_traceparent(CIMultiDict()) == ""
