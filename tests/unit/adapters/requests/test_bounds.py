"""Values that would crash a server, or exhaust its memory or time."""

import json

import pytest

from provider_agent.adapters.base import BadRequest, Operation
from tests.unit.adapters.requests.prepared import NATIVE_KINDS, body, raw_body, with_minimal

CHAT = Operation.CHAT
COMPLETIONS = Operation.COMPLETIONS
EMBEDDINGS = Operation.EMBEDDINGS
RESPONSES = Operation.RESPONSES
ANTHROPIC = Operation.MESSAGES
DEEP_SCHEMA: dict[str, object] = {}
for _ in range(40):
    DEEP_SCHEMA = {"properties": {"a": DEEP_SCHEMA}}
LARK = {"type": "grammar", "syntax": "lark", "definition": "start: " + "(" * 100}

OUT_OF_BOUNDS: list[tuple[Operation, dict[str, object]]] = [
    (CHAT, {"grammar": "root ::= " + "(" * 60_000}),
    (CHAT, {"grammar": 'root ::= "' + "a" * 70_000 + '"'}),
    (CHAT, {"grammar": {"a": 1}}),
    (CHAT, {"ebnf": "(" * 100}),
    (CHAT, {"structured_outputs": {"grammar": "(" * 100}}),
    (CHAT, {"structured_outputs": {"regex": "(" * 50}}),
    (CHAT, {"structured_outputs": {"whitespace_pattern": "(" * 50}}),
    (CHAT, {"structured_outputs": {"json": DEEP_SCHEMA}}),
    (CHAT, {"structured_outputs": 7}),
    (CHAT, {"structured_outputs": "json"}),
    (CHAT, {"guided_regex": "a" * 5000}),
    (CHAT, {"guided_json": "[" * 100}),
    (CHAT, {"json_schema": DEEP_SCHEMA}),
    (CHAT, {"grammar": "root ::= " + '"a"? ' * 600}),
    (CHAT, {"response_format": {"type": "structural_tag", "format": {"grammar": "(" * 100}}}),
    (CHAT, {"tools": [{"type": "custom", "custom": {"name": "f", "format": LARK}}]}),
    (RESPONSES, {"tools": [{"type": "custom", "name": "f", "format": LARK}]}),
    (CHAT, {"json_schema": {"properties": {str(key): {} for key in range(600)}}}),
    (CHAT, {"json_schema": {"enum": list(range(1100))}}),
    (CHAT, {"json_schema": {"items": {"type": "string", "pattern": "(a|b)?" * 300}}}),
    (CHAT, {"guided_json": json.dumps({"enum": list(range(1100))})}),
    (CHAT, {"guided_json": json.dumps(DEEP_SCHEMA)}),
    (CHAT, {"guided_json": "not JSON"}),
    (CHAT, {"json_schema": {"a": [[[]] * 900] * 30}}),
    (CHAT, {"guided_choice": ["x"] * 1100}),
    (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"schema": DEEP_SCHEMA}}}),
    (CHAT, {"response_format": {"type": "json_schema", "schema": {"enum": ["x" * 300_000]}}}),
    (CHAT, {"response_format": "json"}),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "f", "parameters": DEEP_SCHEMA}}]}),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}] * 513}),
    (CHAT, {"messages": [{"role": "user", "content": "x"}] * 10_001}),
    (CHAT, {"messages": "x"}),
    (CHAT, {"messages": [7]}),
    (CHAT, {"messages": [{"role": "user", "content": 7}]}),
    (CHAT, {"stop": ["x"] * 65}),
    (CHAT, {"stop": "x" * 5000}),
    (CHAT, {"n": 16_384}),
    (CHAT, {"n": 0}),
    (CHAT, {"n": 1.0e9}),
    (CHAT, {"n": True}),
    (CHAT, {"n_cmpl": 100}),
    (CHAT, {"n_probs": 2_000_000_000}),
    (CHAT, {"logprobs": 2_000_000_000}),
    (CHAT, {"top_logprobs": 100_000}),
    (CHAT, {"top_logprobs": -1}),
    (CHAT, {"top_k": 2**64}),
    (CHAT, {"dry_penalty_last_n": 200_000_000}),
    (CHAT, {"repeat_last_n": 200_000_000}),
    (CHAT, {"dry_sequence_breakers": ["a"] * 1000}),
    (CHAT, {"samplers": ["top_k"] * 100_000}),
    (CHAT, {"logit_bias": {str(token): 1 for token in range(20_000)}}),
    (CHAT, {"stop_token_ids": list(range(5000))}),
    (CHAT, {"bad_words": ["a"] * 300}),
    (CHAT, {"user": "u" * 2**21}),
    (CHAT, {"metadata": {"a": "b" * 20_000}}),
    (CHAT, {"chat_template_kwargs": {"enable_thinking": {"a": 1}}}),
    (COMPLETIONS, {"best_of": 100}),
    (COMPLETIONS, {"prompt": ["x"] * 17}),
    (COMPLETIONS, {"prompt": [[1, 2]] * 17}),
    (COMPLETIONS, {"prompt": {"prompt_string": "x", "multimodal_data": ["http://10.0.0.1/"]}}),
    (COMPLETIONS, {"prompt": [{"prompt_string": "x"}]}),
    (COMPLETIONS, {"prompt": [[{"prompt_string": "x"}]]}),
    (EMBEDDINGS, {"input": ["x"] * 2049}),
    (EMBEDDINGS, {"input": [{"image": "http://10.0.0.1/"}]}),
    (EMBEDDINGS, {"dimensions": 2**40}),
    (RESPONSES, {"user": "u" * 2**21}),
    (RESPONSES, {"text": {"format": {"type": "json_schema", "schema": DEEP_SCHEMA}}}),
    (ANTHROPIC, {"stop_sequences": ["x"] * 65}),
    (ANTHROPIC, {"metadata": {"user_id": "u" * 20_000}}),
    (ANTHROPIC, {"tools": [{"name": "f", "input_schema": DEEP_SCHEMA}]}),
    (ANTHROPIC, {"output_config": {"format": {"schema": DEEP_SCHEMA}}}),
]


@pytest.mark.parametrize(("operation", "fields"), OUT_OF_BOUNDS)
def test_value_out_of_bounds_is_refused(operation: Operation, fields: dict[str, object]) -> None:
    for kind in NATIVE_KINDS:
        with pytest.raises(BadRequest, match=next(iter(fields))):
            body(kind, with_minimal(operation, **fields), operation)


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("grammar", r"root ::= " + r"\u0028" * 100),
        ("grammar", r"root ::= " + r"[a]\u003f" * 600),
        ("guided_regex", r"\u0028" * 50),
    ],
)
def test_escapes_do_not_hide_brackets_and_operators(field: str, text: str) -> None:
    # In an earlier version, the bounds counted only characters that were not escaped.
    request = f'{{"messages":[],"{field}":"{text}"}}'.encode()

    with pytest.raises(BadRequest, match=field):
        raw_body("llamacpp", request)


def test_template_switches_cannot_replace_the_template() -> None:
    switches = {"enable_thinking": False, "chat_template": "{{ 1 }}", "tools": [], "x": "y"}

    sent = body("vllm", with_minimal(CHAT, chat_template_kwargs=switches))

    assert sent["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("operation", "fields"),
    [
        (CHAT, {"grammar": 'root ::= "{" ws (item ("," item)*)? "}"' * 90}),
        (CHAT, {"grammar": r'root ::= "\u00e9" | "\n"'}),
        (CHAT, {"guided_json": '{"type":"object","properties":{"a":{"pattern":"^[a-z]+$"}}}'}),
        (CHAT, {"json_schema": {"properties": {str(key): {} for key in range(500)}}}),
        (CHAT, {"n": 8, "top_logprobs": 20, "logprobs": True, "top_k": -1}),
        (CHAT, {"stop": ["x"] * 64, "repeat_last_n": -1, "dry_penalty_last_n": 4096}),
        (CHAT, {"n": None, "top_k": None, "stop": None, "tools": None, "response_format": None}),
        (COMPLETIONS, {"prompt": ["x"] * 16, "logprobs": 5}),
        (COMPLETIONS, {"prompt": list(range(100_000))}),
        (COMPLETIONS, {"prompt": [[1, 2], [3]]}),
        (EMBEDDINGS, {"input": ["x"] * 2048}),
        (EMBEDDINGS, {"input": [[1, 2], [3]]}),
        (EMBEDDINGS, {"input": []}),
        (RESPONSES, {"user": "u" * 500}),
    ],
)
def test_value_within_bounds_passes(operation: Operation, fields: dict[str, object]) -> None:
    request = with_minimal(operation, **fields)

    assert body("vllm", request, operation) == request
