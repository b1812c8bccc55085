"""Whatever a client sends, a server receives only what the policy allows."""

import json
from collections import Counter
from functools import partial
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.base import BadRequest, PolicyMode
from provider_agent.adapters.registry import backend_class
from provider_agent.adapters.requests.policy import default_policy
from provider_agent.protocol.formats import Operation
from tests.fuzz.depth import STEPS_DONE, depth
from tests.kit import hostile_requests
from tests.kit.hostile_requests import HostileRequest
from tests.unit.adapters.requests.prepared import HTTP_KINDS, NATIVE_KINDS, raw_body

# Fields that adapters add.
ADDED = {"model", "stream_options", "max_tokens", "max_output_tokens", "venice_parameters"}
# The highest values that may be sent.
MOST = {
    "n": 8,
    "n_cmpl": 8,
    "best_of": 8,
    "n_probs": 20,
    "top_logprobs": 20,
    "top_k": 1_000_000,
    "dry_penalty_last_n": 65_536,
    "repeat_last_n": 65_536,
    "logprobs": 20,
}
URL_NAMES = {"url", "image_url", "audio_url", "video_url", "file_url"}
CLIENT_TOOLS = {"function", "custom", None}
# Fields that the agent checks inside: messages with their parts, tools, and small objects.
CHECKED = (
    *("messages", "input", "system", "tools", "tool_choice", "stream_options"),
    "chat_template_kwargs",
)
FORBIDDEN_ANYWHERE = {"file_id", "ttl", "chat_template"}


def unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object; fail if a server could read another one from the same text."""
    folded = Counter(name.casefold() for name, _ in pairs)
    assert not [name for name, count in folded.items() if count > 1], pairs
    return dict(pairs)


def checked_values(sent: dict[str, Any]) -> list[Any]:
    """Return the values of the `CHECKED` fields."""
    return [sent[name] for name in CHECKED if name in sent]


def assert_harmless(value: object, schemes: tuple[str, ...]) -> None:
    """Assert that a checked value contains only URLs of these schemes, and no forbidden field."""
    if isinstance(value, list):
        for item in value:
            assert_harmless(item, schemes)
    elif isinstance(value, dict):
        for name, inner in value.items():
            assert name not in FORBIDDEN_ANYWHERE
            if name in ("parameters", "input_schema"):
                continue  # a schema may describe any name
            if name in URL_NAMES and isinstance(inner, str):
                assert inner.startswith(schemes)
            assert_harmless(inner, schemes)


@given(
    hostile_requests.requests(),
    st.sampled_from(HTTP_KINDS),
    st.sampled_from([PolicyMode.STRIP, PolicyMode.REFUSE]),
)
@depth(20)
def test_server_receives_only_what_the_policy_allows(
    request: HostileRequest, kind: str, mode: PolicyMode
) -> None:
    operation, body = request
    prepare = partial(raw_body, kind, operation=operation)
    STEPS_DONE["requests"] += 1
    try:
        sent_bytes = prepare(body, request_policy=mode)
    except BadRequest:
        STEPS_DONE["refused"] += 1
        return
    adapter = backend_class(kind)
    policy = adapter.request_policy or default_policy(native=adapter.native)

    sent = json.loads(sent_bytes)
    assert set(sent) <= {*policy.fields[operation], *ADDED}
    unambiguous(list(sent.items()))
    assert sent.get("stream") in (True, False, None)
    assert sent["model"] == "m"
    for name, most in MOST.items():
        assert sent.get(name) is None or -1 <= sent[name] <= most
    schemes = ("data:",) if kind in NATIVE_KINDS else ("data:", "http://", "https://")
    assert_harmless(checked_values(sent), schemes)
    for tool in sent.get("tools") or []:
        assert tool.get("type") in CLIENT_TOOLS
    assert_read_alike(sent_bytes, sent)
    # What was checked is what is sent: checking it again changes nothing.
    assert json.loads(prepare(sent_bytes)) == sent


def assert_read_alike(sent_bytes: bytes, sent: dict[str, Any]) -> None:
    """Assert that no two fields, and no two names in a checked object, differ only by case."""
    by_name = json.loads(sent_bytes, object_pairs_hook=list)
    assert len(by_name) == len(sent)
    for name, value in by_name:
        if name in CHECKED:
            _assert_no_other_spelling(value, depth=3)


def _assert_no_other_spelling(value: object, depth: int) -> None:
    if not isinstance(value, list) or not depth:
        return
    if value and all(isinstance(item, tuple) for item in value):
        unambiguous(value)
        value = [inner for name, inner in value if name == "content"]
    for item in value:
        _assert_no_other_spelling(item, depth - 1)


@given(hostile_requests.requests(), st.sampled_from(HTTP_KINDS))
@depth(5)
def test_agent_sets_model_and_stream_even_if_everything_passes(
    request: HostileRequest, kind: str
) -> None:
    try:
        body = raw_body(kind, request.body, request.operation, request_policy=PolicyMode.PASS)
    except BadRequest:
        return

    pairs = json.loads(body, object_pairs_hook=list)
    own = [(name, value) for name, value in pairs if name.casefold() in ("model", "stream")]
    sent = unambiguous(own)
    assert sent["model"] == "m"
    assert sent.get("stream") in (True, False, None)


def test_grammar_reaches_every_operation_and_outcome() -> None:
    """The generated requests do not all fail in the first check."""
    outcomes: Counter[tuple[Operation, bool]] = Counter()

    @given(hostile_requests.requests())
    @depth(10)
    def run(request: HostileRequest) -> None:
        try:
            raw_body("vllm", request.body, request.operation)
        except BadRequest:
            outcomes[request.operation, False] += 1
        else:
            outcomes[request.operation, True] += 1

    run()

    assert set(outcomes) == {(operation, sent) for operation in Operation for sent in (True, False)}
