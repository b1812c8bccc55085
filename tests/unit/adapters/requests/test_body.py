import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.base import NATIVE_POLICY, BackendSettings, BadRequest, PolicyMode
from provider_agent.adapters.requests.body import prepare_request
from provider_agent.protocol.formats import Operation

CHAT = Operation.CHAT
MESSAGES = Operation.MESSAGES

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


POLICY = NATIVE_POLICY.allowing("xyab")
SETTINGS = BackendSettings(kind="vllm")


def prepared(request: bytes, operation: Operation = CHAT, *, ask_for_usage: bool = True) -> bytes:
    return prepare_request(
        request, operation, "m", ask_for_usage=ask_for_usage, policy=POLICY, settings=SETTINGS
    ).body


def test_model_is_replaced_by_the_upstream_id() -> None:
    assert prepared(b'{"a":1,"model":"theirs","b":2}') == b'{"a":1,"model":"m","b":2}'


def test_removed_names_are_logged_without_their_values(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "provider_agent")

    prepared(b'{"a":1,"unknown":"secret","tools":[{"type":"web_search","x":"secret"}]}')

    (record,) = caplog.records
    assert record.message == "request fields removed"
    assert vars(record)["fields"] == {"job": "", "names": ["unknown", "tools.web_search"]}


def test_missing_model_is_added() -> None:
    assert json.loads(prepared(b"{}")) == {"model": "m"}


def test_request_that_needs_no_change_loses_only_white_space_outside_values() -> None:
    request = b' { "model" : "m" , "temperature": 1.0, "x": [ "a" ] } '

    assert prepared(request) == b'{"model":"m","temperature":1.0,"x":[ "a" ]}'


@pytest.mark.parametrize(
    "request_body",
    [
        b'{"model":"other","model":"m"}',
        b'{"mod\\u0065l":"other"}',
        b'{"model":"m","mod\\u0065l":"m"}',
    ],
)
def test_only_one_model_field_is_forwarded_if_it_is_duplicated_or_escaped(
    request_body: bytes,
) -> None:
    """A server that reads the first of two `model` fields would serve another model."""
    assert prepared(request_body) == b'{"model":"m"}'


@pytest.mark.parametrize(
    "value",
    [
        b"1e2",
        b"1.0",
        b"-0",
        b"12345678901234567890123",
        b'"\\u00e9\\/"',
        b"[ 1,2 ]",
        b'{"b":1,"a":2}',
    ],
)
def test_value_of_an_unrelated_field_keeps_its_bytes(value: bytes) -> None:
    assert prepared(b'{"x":' + value + b',"model":"theirs"}') == (
        b'{"x":' + value + b',"model":"m"}'
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (b"", b',"stream_options":{"include_usage":true}'),
        (b',"stream_options":null', b',"stream_options":{"include_usage":true}'),
        (b',"stream_options":{}', b',"stream_options":{"include_usage":true}'),
        (
            b',"stream_options":{"include_usage":false,"include_obfuscation":0,"x":1}',
            b',"stream_options":{"include_usage":true,"include_obfuscation":0}',
        ),
        (
            b',"stream_options":{ "include_usage": true }',
            b',"stream_options":{"include_usage":true}',
        ),
    ],
)
def test_usage_is_requested_for_a_stream_and_other_known_options_are_kept(
    options: bytes, expected: bytes
) -> None:
    request = b'{"model":"m","stream":true' + options + b"}"

    assert prepared(request) == b'{"model":"m","stream":true' + expected + b"}"


@pytest.mark.parametrize(
    ("request_body", "operation", "ask_for_usage"),
    [
        (b'{"model":"m","stream":true}', CHAT, False),
        (b'{"model":"m","stream":false}', CHAT, True),
        (b'{"model":"m"}', CHAT, True),
        (b'{"model":"m","stream":true}', MESSAGES, True),
    ],
)
def test_request_is_unchanged_if_the_agent_does_not_ask_for_usage(
    request_body: bytes, operation: Operation, ask_for_usage: bool
) -> None:
    assert prepared(request_body, operation, ask_for_usage=ask_for_usage) == request_body


@pytest.mark.parametrize(
    "request_body",
    [
        b"",
        b"[]",
        b'"text"',
        b"null",
        b'{"model":',
        b'{"model":"m"} trailing',
        b'{"x":' + b"[" * 100_000 + b"}",
        b'{"x":' + b"[" * 150 + b"]" * 150 + b"}",
        b'\xff{"model":"m"}',
        b'{"stream_options":7,"stream":true}',
    ],
)
def test_malformed_request_is_a_bad_request(request_body: bytes) -> None:
    with pytest.raises(BadRequest):
        prepared(request_body)


def test_streamed_requests_are_detected() -> None:
    def streams(body: bytes) -> bool:
        return prepare_request(
            body, CHAT, "m", ask_for_usage=True, policy=POLICY, settings=SETTINGS
        ).streamed

    assert streams(b'{"stream":true}')
    assert not streams(b'{"stream":false}')
    assert not streams(b"{}")
    assert not streams(b'{"stream":null}')


@pytest.mark.parametrize("mode", PolicyMode)
@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize(
    "value", [b"1", b"1.0", b'"yes"', b'"true"', b'""', b"0", b"[]", b"{}", b"truE"]
)
def test_stream_that_is_not_a_boolean_is_a_bad_request(
    value: bytes, operation: Operation, mode: PolicyMode
) -> None:
    """vLLM takes `1`, `1.0`, `"yes"` and `"true"` for true: it would stream without usage."""
    with pytest.raises(BadRequest):
        prepare_request(
            b'{"stream":' + value + b"}",
            operation,
            "m",
            ask_for_usage=True,
            policy=POLICY,
            settings=BackendSettings(kind="vllm", request_policy=mode),
        )


@given(st.dictionaries(st.sampled_from("xyab"), JSON), st.booleans(), st.sampled_from(Operation))
def test_fields_except_model_and_stream_options_are_unchanged(
    fields: dict[str, object], streamed: bool, operation: Operation
) -> None:
    fields |= {"stream": streamed}
    request = json.dumps(fields).encode()

    decoded = json.loads(prepared(request, operation))

    expected = {
        key: value for key, value in fields.items() if key not in ("model", "stream_options")
    }
    forwarded = {
        key: value for key, value in decoded.items() if key not in ("model", "stream_options")
    }
    assert forwarded == expected
    assert decoded["model"] == "m"
    assert [key for key in decoded if key in expected] == list(expected)


@given(st.binary())
def test_arbitrary_bytes_become_one_json_object_or_a_bad_request(request_body: bytes) -> None:
    try:
        body = prepared(request_body)
    except BadRequest:
        return
    assert isinstance(json.loads(body), dict)
