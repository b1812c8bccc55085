import pytest
from multidict import CIMultiDict

from provider_agent.coordinator.http.client_errors import ClientError
from provider_agent.coordinator.http.client_request import find_model, valid_traceparent

VALID = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_model_id_is_read_from_the_request() -> None:
    assert find_model(b' {"messages":[{"model":1}],"model":"tiny"} ') == "tiny"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b'"tiny"',
        b"{}",
        b'{"model":1}',
        b'{"model":null}',
        b'{"model":""}',
        b'{"model":"' + b"x" * 513 + b'"}',
        b'{"model":"tiny"} {}',
        b'{"model":"tiny"',
        b'{"model":"\xff"}',
        b'{"model":"tiny","deep":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_request_without_a_valid_model_is_a_bad_request(body: bytes) -> None:
    failure = find_model(body)
    assert isinstance(failure, ClientError)
    assert (failure.status, failure.code) == (400, "bad_request")


@pytest.mark.parametrize(
    ("header", "forwarded"),
    [
        (VALID, VALID),
        ("", ""),
        (VALID.upper(), ""),
        (VALID + "-more", ""),
        ("ff" + VALID[2:], ""),
        ("00-" + "0" * 32 + VALID[35:], ""),
        (VALID[:36] + "0" * 16 + "-01", ""),
    ],
)
def test_invalid_traceparent_is_ignored(header: str, forwarded: str) -> None:
    assert valid_traceparent(CIMultiDict({"Traceparent": header})) == forwarded
