"""Fields that a server might read differently than the agent.

Their names have another case, escapes or duplicates, or their numbers are strings.
"""

import json

import pytest

from provider_agent.adapters.base import BadRequest, Operation
from tests.unit.adapters.requests.prepared import HTTP_KINDS, PASS, REFUSE, STRIP, raw_body

# Case folding turns \u017f (long s) into "s", and \u212a (Kelvin sign) into "k".
OTHER_SPELLINGS = (
    *("Messages", "MESSAGES", "me\u017f\u017fages", "Max_Tokens", "max_to\u212aens", "Tools"),
    *("Model", "\u017ftream", "Stream", "STREAM_OPTIONS", "Options", "N", "Response_Format"),
)


def sent_fields(kind: str, request: str, **settings: object) -> dict[str, object]:
    sent = json.loads(raw_body(kind, request.encode(), Operation.CHAT, **settings))
    assert isinstance(sent, dict)
    return sent


@pytest.mark.parametrize("name", OTHER_SPELLINGS)
@pytest.mark.parametrize("kind", HTTP_KINDS)
@pytest.mark.parametrize("mode", [STRIP, PASS])
def test_other_spelling_of_a_known_name_is_not_sent(kind: str, name: str, mode: object) -> None:
    """Go matches names with Unicode case folding, and the last one wins: Ollama read `Messages`."""
    request = json.dumps({"messages": [], name: "other"}, ensure_ascii=False)

    if name == "Options" and mode is PASS:
        return  # `options` is no known field, and `PASS` sends unknown fields
    assert name not in sent_fields(kind, request, request_policy=mode)
    with pytest.raises(BadRequest):
        sent_fields(kind, request, request_policy=REFUSE)


@pytest.mark.parametrize("kind", ["ollama", "vllm"])
def test_other_spellings_inside_checked_objects_are_not_sent(kind: str) -> None:
    message = {"role": "user", "content": "a", "Content": "b", "ROLE": "system"}
    tool = {"type": "function", "function": {"name": "f"}, "Type": "web_search", "TYPE": "mcp"}
    request = {
        "messages": [message],
        "tools": [tool],
        "stream": True,
        "stream_options": {"Include_Usage": False},
    }

    sent = sent_fields(kind, json.dumps(request))

    assert sent["messages"] == [{"role": "user", "content": "a"}]
    assert sent["tools"] == [{"type": "function", "function": {"name": "f"}}]
    assert sent["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    "request_",
    [
        '{"messages":[{"role":"system"}],"messages":[]}',
        '{"mess\\u0061ges":[]}',
        '{"messages":[{"role":"system"}],"mess\\u0061ges":[]}',
    ],
)
def test_duplicate_and_escaped_names_are_sent_once(request_: str) -> None:
    body = raw_body("vllm", request_.encode())

    assert body == b'{"messages":[],"model":"m"}'


def test_duplicate_type_of_a_tool_cannot_hide_a_server_tool() -> None:
    request = b'{"tools":[{"type":"web_search","type":"function","function":{"name":"f"}}]}'

    assert b"web_search" not in raw_body("openrouter", request)


def test_duplicate_url_cannot_hide_an_address() -> None:
    urls = b'"url":"http://10.0.0.1/","url":"data:,x"'
    request = (
        b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{%s}}]}]}' % urls
    )

    assert b"10.0.0.1" not in raw_body("vllm", request)


@pytest.mark.parametrize("name", ["n", "max_tokens", "top_logprobs", "top_k"])
def test_number_in_a_string_is_refused(name: str) -> None:
    """vLLM reads it as a number."""
    with pytest.raises(BadRequest, match=name):
        sent_fields("vllm", f'{{"{name}":"16384"}}')
