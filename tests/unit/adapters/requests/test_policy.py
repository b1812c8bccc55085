"""Which fields, tools and parts of messages a policy removes or refuses, and which pass."""

import pytest

from provider_agent.adapters.base import BadRequest, Operation
from tests.unit.adapters.requests.prepared import (
    HTTP_KINDS,
    MESSAGES,
    MINIMAL,
    NATIVE_KINDS,
    PASS,
    REFUSE,
    body,
    with_minimal,
)

CHAT = Operation.CHAT
RESPONSES = Operation.RESPONSES
ANTHROPIC = Operation.MESSAGES
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}

SPENDS_MONEY = {
    "models": ["other"],
    "fallbacks": [{"model": "other"}],
    "provider": {},
    "plugins": [],
    "preset": "x",
    "route": "fallback",
    "transforms": [],
    "web_search_options": {},
    "service_tier": "priority",
    "speed": "fast",
    "x_search": True,
    "debug": {},
    "trace": {},
    "modalities": ["image"],
    "image_config": {},
    "venice_parameters": {"a": 1},
    "store": True,
    "prediction": {},
    "usage": {},
    "session_id": "s",
    "prompt_cache_retention": "24h",
    "container": "c",
    "mcp_servers": [],
    "context_management": {},
    "inference_geo": "x",
}
REACHES_INTERNALS = {
    "ec_transfer_params": {},
    "kv_transfer_params": {},
    "vllm_xargs": {},
    "priority": -1,
    "request_id": "r",
    "session_id": "s",
    "use_beam_search": True,
    "mm_processor_kwargs": {},
    "media_io_kwargs": {},
    "chat_template": "{{ 1 }}",
    "bootstrap_host": "h",
    "rid": "r",
    "bootstrap_port": 1,
    "bootstrap_room": 1,
    "lora_path": "/",
    "custom_logit_processor": "x",
    "custom_params": {},
    "session_params": {},
    "return_hidden_states": True,
    "api_base": "u",
    "api_key": "k",
    "base_url": "u",
    "fallbacks": [],
    "id_slot": 0,
    "slot_id": 0,
    "lora": [],
    "n_cache_reuse": 9,
    "grammar_lazy": True,
    "grammar_triggers": [],
    "keep_alive": -1,
    "options": {"num_ctx": 9},
    "ttl": 9,
    "draft_model": "d",
    "integrations": ["mcp"],
    "_debug_render_only": True,
    "speculative.n_max": 9,
    "backend_sampling": True,
}
SERVER_TOOLS = (
    *("web_search", "web_search_20250305", "web_fetch_20250910", "openrouter:datetime", "mcp"),
    *("advisor_20260301", "shell", "local_shell", "code_interpreter", "image_generation"),
    *("file_search", "computer_use_preview", "namespace", "x_search", "FUNCTION", " function"),
)


@pytest.mark.parametrize("operation", Operation)
@pytest.mark.parametrize("kind", HTTP_KINDS)
def test_field_without_a_rule_is_removed_or_refused(kind: str, operation: Operation) -> None:
    for name, value in {**SPENDS_MONEY, **REACHES_INTERNALS, "x_unknown": 1}.items():
        request = with_minimal(operation, **{name: value})

        assert body(kind, request, operation) == MINIMAL[operation], name
        with pytest.raises(BadRequest, match="does not accept"):
            body(kind, request, operation, request_policy=REFUSE)
        assert name in body(kind, request, operation, request_policy=PASS) or name == (
            "venice_parameters"
        )


@pytest.mark.parametrize("name", ["service_tier", "priority", "x_unknown"])
def test_null_counts_as_absent(name: str) -> None:
    request = with_minimal(CHAT, **{name: None})

    assert body("openrouter", request, request_policy=REFUSE) == MINIMAL[CHAT]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("previous_response", {}),
        ("conversation", "c"),
        ("background", True),
        ("prompt", {"id": "pmpt_1"}),
    ],
)
@pytest.mark.parametrize("kind", ["vllm", "openrouter", "lmstudio"])
def test_field_that_the_answer_depends_on_is_refused_and_never_removed(
    kind: str, name: str, value: object
) -> None:
    with pytest.raises(BadRequest, match=name):
        body(kind, with_minimal(RESPONSES, **{name: value}), RESPONSES)


def test_operator_passes_and_strips_fields_of_one_backend() -> None:
    request = with_minimal(
        CHAT, service_tier="flex", seed=1, tools=[{"type": "web_search"}, FUNCTION]
    )
    sent = body(
        "openrouter",
        request,
        pass_fields=("service_tier", "tools.web_search"),
        strip_fields=("seed",),
    )

    assert sent == with_minimal(CHAT, service_tier="flex", tools=[{"type": "web_search"}, FUNCTION])


def test_field_that_the_operator_passes_is_not_checked_except_stream() -> None:
    assert body("vllm", with_minimal(CHAT, n=64), pass_fields=("n",))["n"] == 64
    with pytest.raises(BadRequest, match="stream"):
        body("vllm", with_minimal(CHAT, stream="yes"), pass_fields=("stream",))


def test_request_policy_pass_still_removes_what_the_operator_strips() -> None:
    request = with_minimal(CHAT, seed=1, Seed=2, top_k=3, unknownField=4)

    sent = body("ollama", request, request_policy=PASS, strip_fields=("seed", "unknownField"))

    assert sent == with_minimal(CHAT, top_k=3)


def test_operator_strips_a_nested_type() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    request = {"messages": [{"role": "user", "content": [image]}]}

    assert body("vllm", request) == request
    with pytest.raises(BadRequest, match="image_url"):
        body("vllm", request, strip_fields=("messages.content.image_url",))


# --- tools ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HTTP_KINDS)
@pytest.mark.parametrize("operation", [CHAT, RESPONSES, ANTHROPIC])
def test_only_tools_that_the_client_executes_pass(kind: str, operation: Operation) -> None:
    own = {
        CHAT: FUNCTION,
        RESPONSES: {"type": "function", "name": "f", "parameters": {}},
        ANTHROPIC: {"name": "f", "input_schema": {"type": "object"}},
    }[operation]
    for tool_type in SERVER_TOOLS:
        tool = {"type": tool_type, "name": "f", "model": "other", "function": {"name": "f"}}
        request = with_minimal(operation, tools=[tool, own], tool_choice={"type": tool_type})
        only = with_minimal(operation, tools=[tool], tool_choice={"type": "auto"})

        assert body(kind, request, operation) == with_minimal(operation, tools=[own])
        assert body(kind, only, operation) == MINIMAL[operation]
        with pytest.raises(BadRequest, match="tools"):
            body(kind, request, operation, request_policy=REFUSE)


@pytest.mark.parametrize("tool", [0, "x", [], None, {}, {"type": 7}, {"type": ["function"]}])
@pytest.mark.parametrize("operation", [CHAT, RESPONSES])
def test_malformed_tool_never_passes(operation: Operation, tool: object) -> None:
    try:
        sent = body("vllm", with_minimal(operation, tools=[tool]), operation)
    except BadRequest:
        return
    assert sent == MINIMAL[operation]


def test_unlisted_fields_inside_a_tool_are_removed() -> None:
    tool = {
        "name": "f",
        "input_schema": {},
        "cache_control": {"type": "ephemeral", "ttl": "1h"},
        "model": "expensive",
    }

    sent = body("openrouter", with_minimal(ANTHROPIC, tools=[tool]), ANTHROPIC)

    assert sent["tools"] == [
        {"name": "f", "input_schema": {}, "cache_control": {"type": "ephemeral"}}
    ]


@pytest.mark.parametrize("kind", ["openrouter", "vllm"])
def test_unlisted_fields_inside_other_fields_are_removed(kind: str) -> None:
    request = {
        **with_minimal(RESPONSES, reasoning={"effort": "low", "mode": "x"}),
        "text": {"verbosity": "low", "x": 1},
    }

    sent = body(kind, request, RESPONSES)

    assert sent["reasoning"] == {"effort": "low"}
    assert sent["text"] == {"verbosity": "low"}
    messages = with_minimal(ANTHROPIC, thinking={"type": "adaptive", "model": "other"})
    assert body(kind, messages, ANTHROPIC)["thinking"] == {"type": "adaptive"}


# --- messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "part"),
    [
        (CHAT, {"type": "file", "file": {"file_id": "file_1"}}),
        (RESPONSES, {"type": "input_file", "file_id": "file_1"}),
        (RESPONSES, {"type": "input_image", "file_id": "file_1"}),
        (ANTHROPIC, {"type": "document", "source": {"type": "file", "file_id": "file_1"}}),
        (CHAT, {"type": "image_embeds", "image_embeds": "AAAA"}),
        (CHAT, {"type": "text", "text": "hi", "cache_control": {"type": "e", "ttl": "1h"}}),
        (ANTHROPIC, {"type": "text", "text": "hi", "cache_control": {"type": "e", "ttl": "1h"}}),
    ],
)
@pytest.mark.parametrize("kind", ["vllm", "openrouter"])
def test_stored_objects_tensors_and_cache_lifetimes_do_not_pass_in_messages(
    kind: str, operation: Operation, part: dict[str, object]
) -> None:
    name = "input" if operation is RESPONSES else "messages"
    request = with_minimal(operation, **{name: [{"role": "user", "content": [part]}]})
    try:
        sent = str(body(kind, request, operation))
    except BadRequest:
        return
    for value in ("file_1", "1h", "AAAA"):
        assert value not in sent


@pytest.mark.parametrize(
    "item",
    [
        {"type": "item_reference", "id": "msg_1"},
        {"type": "additional_tools", "tools": [{"type": "shell"}]},
        {"type": "mcp_call", "server_label": "x"},
        {"type": 7},
    ],
)
def test_unknown_input_item_is_refused(item: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        body("openrouter", {"input": [item]}, RESPONSES)


def test_tools_inside_messages_are_removed() -> None:
    """SGLang and OpenRouter take tools from a system message too."""
    message = {"role": "system", "content": "x", "tools": [{"type": "openrouter:web_search"}]}

    sent = body("openai_compatible", {"messages": [message]})

    assert sent == {"messages": [{"role": "system", "content": "x"}]}


# --- what passes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HTTP_KINDS)
def test_standard_request_passes_unchanged(kind: str) -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "look"}], "name": "n"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f"}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    ]
    request = {
        "messages": messages,
        "temperature": 0.7,
        "top_p": 1,
        "seed": 4,
        "stop": ["a"],
        "tools": [FUNCTION],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "n": 1,
        "frequency_penalty": 0,
        "presence_penalty": 0,
        "logit_bias": {"5": 1},
        "user": "u",
        "response_format": {"type": "json_object"},
        "reasoning_effort": "low",
        "logprobs": True,
        "top_logprobs": 5,
        "max_tokens": 5,
        "metadata": {"a": "b"},
    }

    assert body(kind, request, request_policy=REFUSE) == request


@pytest.mark.parametrize("kind", NATIVE_KINDS)
def test_sampling_fields_pass_to_native_servers_and_some_to_venice(kind: str) -> None:
    request = with_minimal(
        CHAT,
        top_k=40,
        min_p=0.1,
        repetition_penalty=1.1,
        mirostat=2,
        xtc_threshold=1,
        guided_json={"type": "object"},
        structured_outputs={"regex": "a+"},
        chat_template_kwargs={"enable_thinking": False},
        grammar='root ::= "a"',
        stop_token_ids=[1],
        ignore_eos=True,
        samplers=["top_k"],
        n_probs=3,
    )

    assert body(kind, request, request_policy=REFUSE) == request
    assert body("venice", request) == with_minimal(
        CHAT, top_k=40, min_p=0.1, repetition_penalty=1.1, stop_token_ids=[1]
    )


def test_anthropic_request_passes_unchanged() -> None:
    use = {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}}
    result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "4"}]}
    request = {
        "messages": [
            *MESSAGES,
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, use]},
            {"role": "user", "content": [result]},
        ],
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        "max_tokens": 9,
        "stop_sequences": ["a"],
        "temperature": 1,
        "top_k": 5,
        "top_p": 1,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "metadata": {"user_id": "u"},
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto"},
    }

    for kind in ("vllm", "llamacpp", "lmstudio", "ollama", "openrouter"):
        assert body(kind, request, ANTHROPIC, request_policy=REFUSE) == request


def test_responses_request_passes_unchanged() -> None:
    request = {
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "42"},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": None}],
        "instructions": "be brief",
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "max_output_tokens": 9,
        "text": {"format": {"type": "text"}},
        "truncation": "auto",
        "reasoning": {"effort": "low"},
        "parallel_tool_calls": True,
        "tool_choice": "auto",
    }

    for kind in ("vllm", "llamacpp", "lmstudio", "ollama", "openrouter"):
        assert body(kind, request, RESPONSES, request_policy=REFUSE) == request
