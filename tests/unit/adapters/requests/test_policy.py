import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.base import BadRequest, PolicyMode
from provider_agent.adapters.registry import BUILT_IN_KINDS, backend_class
from provider_agent.adapters.requests.body import prepare_request
from provider_agent.adapters.requests.policy import RequestPolicy, apply_policy
from provider_agent.protocol.formats import Operation

POLICIES = {
    kind: policy
    for kind in sorted(BUILT_IN_KINDS)
    if (policy := backend_class(kind).request_policy) != RequestPolicy()
}
STRICT, STRIP, PASS = PolicyMode.STRICT, PolicyMode.STRIP, PolicyMode.PASS
KINDS_AND_FIELDS = [
    (kind, name) for kind, policy in POLICIES.items() for name in sorted(policy.fields)
]
ODD_VALUES: list[object] = [None, True, 7, [], {"a": 1}]
KINDS_AND_TOOLS = [(kind, name) for kind, policy in POLICIES.items() for name in policy.tool_types]
MESSAGES = [{"role": "user", "content": "hi"}]
FUNCTION = {"type": "function", "function": {"name": "f"}}


def applied(
    policy: RequestPolicy, request: dict[str, object], mode: PolicyMode
) -> dict[str, object]:
    fields = msgspec.json.decode(json.dumps(request), type=dict[str, msgspec.Raw])
    apply_policy(fields, policy, mode)
    return {name: json.loads(bytes(value)) for name, value in fields.items()}


# --- fields --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *((kind, name, "x") for kind, name in KINDS_AND_FIELDS),
        *((*KINDS_AND_FIELDS[0], value) for value in ODD_VALUES),
    ],
)
def test_policy_field_is_rejected_removed_or_forwarded_depending_on_the_mode(
    kind: str, name: str, value: object
) -> None:
    policy, request = POLICIES[kind], {"messages": MESSAGES, name: value, "top_p": 0.5}

    with pytest.raises(BadRequest, match=name):
        applied(policy, request, STRICT)
    assert applied(policy, request, STRIP) == {"messages": MESSAGES, "top_p": 0.5}
    assert applied(policy, request, PASS) == request


def test_strict_mode_names_every_rejected_field() -> None:
    request: dict[str, object] = {"route": "fallback", "models": ["other"], "top_p": 1}

    with pytest.raises(BadRequest, match="does not accept: models, route"):
        applied(POLICIES["openrouter"], request, STRICT)


@pytest.mark.parametrize("name", ["Models", "MODELS", "mode\\u006cs", "Model\\u017f"])
def test_policy_matches_field_names_case_insensitively(name: str) -> None:
    """Servers written in Go match names case-insensitively, with Unicode case folding."""
    request = f'{{"messages":[],"{name}":["other"]}}'.encode()

    body = prepared(request, POLICIES["openrouter"], STRIP)

    assert json.loads(body) == {"messages": [], "model": "m"}


@pytest.mark.parametrize("name", ["Model", "MODEL", "Stream", "STREAM_OPTIONS"])
@pytest.mark.parametrize("mode", PolicyMode)
def test_case_variants_of_fields_that_the_agent_sets_or_reads_are_removed(
    name: str, mode: PolicyMode
) -> None:
    """Ollama reads `Model` as `model`: a client could select any model, even a cloud model."""
    request = json.dumps({"model": "m", "stream": True, name: "other:cloud"}).encode()

    body = json.loads(prepared(request, POLICIES["ollama"], mode))

    assert body == {"model": "m", "stream": True, "stream_options": {"include_usage": True}}


def test_case_variant_of_include_usage_is_removed() -> None:
    options = {"include_usage": True, "Include_Usage": False}
    request = json.dumps({"stream": True, "stream_options": options}).encode()

    body = json.loads(prepared(request, POLICIES["ollama"], STRIP))

    assert body["stream_options"] == {"include_usage": True}


def prepared(request: bytes, policy: RequestPolicy, mode: PolicyMode) -> bytes:
    return prepare_request(
        request, Operation.CHAT, "m", ask_for_usage=True, policy=policy, mode=mode
    ).body


# --- tools ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "prefix"), KINDS_AND_TOOLS)
@pytest.mark.parametrize("suffix", ["", "_20250305"])
def test_server_side_tool_is_rejected_removed_or_forwarded_depending_on_the_mode(
    kind: str, prefix: str, suffix: str
) -> None:
    policy = POLICIES[kind]
    request: dict[str, object] = {"tools": [FUNCTION, {"type": prefix + suffix}, FUNCTION]}

    with pytest.raises(BadRequest, match="executes itself"):
        applied(policy, request, STRICT)
    assert applied(policy, request, STRIP) == {"tools": [FUNCTION, FUNCTION]}
    assert applied(policy, request, PASS) == request


@pytest.mark.parametrize(("kind", "prefix"), KINDS_AND_TOOLS)
def test_tool_choice_is_removed_with_the_last_tool(kind: str, prefix: str) -> None:
    request: dict[str, object] = {
        "messages": MESSAGES,
        "tools": [{"type": prefix}],
        "tool_choice": "required",
    }

    assert applied(POLICIES[kind], request, STRIP) == {"messages": MESSAGES}


@pytest.mark.parametrize("malformed", [7, None, "x", [], {}, {"type": 7}, {"type": None}])
def test_server_side_tool_is_rejected_or_removed_after_a_malformed_tool(malformed: object) -> None:
    request: dict[str, object] = {"tools": [malformed, {"type": "web_search"}]}

    with pytest.raises(BadRequest):
        applied(POLICIES["ollama"], request, STRICT)
    assert applied(POLICIES["ollama"], request, STRIP) == {"tools": [malformed]}


@pytest.mark.parametrize(
    "request_body",
    [
        {"Tools": [{"type": "web_search"}], "TOOL_CHOICE": "auto"},
        {"tools": [{"Type": "web_search"}], "tool_choice": "auto"},
        {"tools": [{"type": "function", "TYPE": "web_search"}]},
    ],
)
def test_tool_fields_match_case_insensitively(request_body: dict[str, object]) -> None:
    assert applied(POLICIES["ollama"], request_body, STRIP) == {}


@pytest.mark.parametrize("tools", [None, 7, "x", {}, {"type": "web_search"}, [], [FUNCTION], [7]])
def test_tools_without_a_server_side_tool_are_forwarded(tools: object) -> None:
    request: dict[str, object] = {"tools": tools, "tool_choice": "auto"}

    for policy in POLICIES.values():
        assert applied(policy, request, STRICT) == request


@pytest.mark.parametrize(
    "kind", [kind for kind, policy in POLICIES.items() if not policy.tool_types]
)
def test_kinds_without_server_side_tools_forward_all_tools(kind: str) -> None:
    request: dict[str, object] = {"tools": [{"type": "web_search"}]}

    assert applied(POLICIES[kind], request, STRICT) == request


# --- any request ---------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
NAMED = sorted({name for _, name in KINDS_AND_FIELDS})
REQUESTS = st.dictionaries(st.sampled_from(NAMED) | st.text(max_size=8), VALUES, max_size=8)


@given(st.sampled_from(sorted(POLICIES)), REQUESTS, st.sampled_from(PolicyMode))
def test_fields_outside_the_policy_do_not_change(
    kind: str, request: dict[str, object], mode: PolicyMode
) -> None:
    policy = POLICIES[kind]
    named = {name for name in request if name.casefold() in policy.fields}
    if mode is STRICT and named:
        with pytest.raises(BadRequest):
            applied(policy, request, mode)
        return

    forwarded = applied(policy, request, mode)

    removed = named if mode is STRIP else set()
    assert forwarded == {name: value for name, value in request.items() if name not in removed}
    assert list(forwarded) == [name for name in request if name not in removed]


@given(st.sampled_from(sorted(POLICIES)), st.lists(VALUES | st.builds(dict, type=st.text())))
def test_strip_mode_adds_no_tool_and_forwards_no_server_side_tool(
    kind: str, tools: list[object]
) -> None:
    policy = POLICIES[kind]

    forwarded = applied(policy, {"tools": tools}, STRIP).get("tools", [])

    assert isinstance(forwarded, list)
    assert all(tool in tools for tool in forwarded)
    types = [tool.get("type") for tool in forwarded if isinstance(tool, dict)]
    assert not any(isinstance(kind, str) and kind.startswith(policy.tool_types) for kind in types)


def test_numbers_and_escapes_keep_their_bytes() -> None:
    request = (
        b'{"models":[1],"x":1e2,"y":"\\u00e9","tools":[{"type":"mcp"},{"z": 1.0}],"model":"m"}'
    )
    policy = RequestPolicy(frozenset({"models"}), ("mcp",))

    assert prepared(request, policy, STRIP) == (
        b'{"x":1e2,"y":"\\u00e9","tools":[{"z": 1.0}],"model":"m"}'
    )
