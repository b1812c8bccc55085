"""How the requests of jobs are read, which name no operation."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.protocol.formats import WireFormat
from provider_agent.protocol.usepod.requests import ReceivedRequest, read_request

OPENAI, ANTHROPIC = WireFormat.OPENAI, WireFormat.ANTHROPIC
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("fields", "operation"),
    [
        ({"messages": []}, ""),
        ({"messages": [], "prompt": "x", "input": "x"}, ""),
        ({"prompt": "x"}, "completions"),
        ({"prompt": "x", "input": "x"}, "completions"),
        ({"input": "x"}, "embeddings"),
        ({}, ""),
    ],
)
def test_the_fields_of_a_request_name_its_operation(
    fields: dict[str, object], operation: str
) -> None:
    body = json.dumps(fields).encode()

    assert read_request(body, OPENAI).operation == operation
    assert read_request(body, ANTHROPIC).operation == ""


def test_only_embeddings_are_not_made_to_stream() -> None:
    assert read_request(b'{"input": "x"}', OPENAI).body == b'{"input": "x"}'
    assert json.loads(read_request(b'{"prompt": "x"}', OPENAI).body)["stream"] is True
    assert json.loads(read_request(b'{"input": "x"}', ANTHROPIC).body)["stream"] is True


@pytest.mark.parametrize(
    ("options", "add_usage"),
    [
        ('{"include_usage": false}', False),
        ('{ "include_usage" :false, "more": 1}', False),
        ('{"include_usage": true}', True),
        ('{"include_usage": null}', True),
        ('{"include_usage": "false"}', True),
        ("{}", True),
        ("null", True),
        ("[false]", True),
    ],
)
def test_only_a_request_that_forbids_usage_goes_without(options: str, add_usage: bool) -> None:
    body = f'{{"messages": [], "stream": true, "stream_options": {options}}}'.encode()

    assert read_request(body, OPENAI) == ReceivedRequest(body, "", add_usage)


@given(st.dictionaries(st.text() | st.sampled_from(["messages", "prompt", "input"]), JSON))
def test_no_field_is_lost_and_a_chat_streams(fields: dict[str, object]) -> None:
    request = read_request(json.dumps(fields).encode(), OPENAI)

    expected = fields if request.operation == "embeddings" else {**fields, "stream": True}
    assert json.loads(request.body) == expected


@given(
    st.binary().filter(lambda body: body.strip()[:1] != b"{")  # not an object
    | JSON.filter(lambda value: not isinstance(value, dict))
)
def test_anything_but_an_object_is_passed_on(value: object) -> None:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()

    assert read_request(body, OPENAI) == ReceivedRequest(body)
