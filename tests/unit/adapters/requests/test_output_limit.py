"""The limit of output tokens that is sent."""

import pytest

from provider_agent.adapters.base import Operation
from tests.unit.adapters.requests.prepared import MINIMAL, body, with_minimal

CHAT, RESPONSES, ANTHROPIC = Operation.CHAT, Operation.RESPONSES, Operation.MESSAGES
DEFAULT = 32_768


@pytest.mark.parametrize(
    ("limits", "sent"),
    [
        ({}, 100),
        ({"max_tokens": None}, 100),
        ({"max_tokens": 5}, 5),
        ({"max_tokens": 500}, 100),
        ({"max_tokens": -1}, 100),
        ({"max_tokens": 0}, 100),
        ({"max_completion_tokens": 7}, 7),
        ({"max_completion_tokens": 7, "max_tokens": 5}, 5),
        ({"max_completion_tokens": 5, "max_tokens": 7}, 5),
        ({"max_completion_tokens": 5, "max_tokens": -1}, 5),
        ({"max_completion_tokens": 500}, 100),
        ({"n_predict": -1}, 100),
    ],
)
def test_ollama_gets_the_smallest_limit_as_max_tokens(limits: dict[str, object], sent: int) -> None:
    """It ignores `max_completion_tokens`, and takes -1 and 0 for no limit (recorded)."""
    # `body` removes the added limit unless the request has `max_tokens`, which may be null.
    request = {**with_minimal(CHAT, **limits), "max_tokens": limits.get("max_tokens")}

    assert body("ollama", request, max_output_tokens=100) == with_minimal(CHAT, max_tokens=sent)


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (CHAT, "max_tokens"),
        (Operation.COMPLETIONS, "max_tokens"),
        (RESPONSES, "max_output_tokens"),
        (ANTHROPIC, "max_tokens"),
    ],
)
def test_ollama_has_a_limit_by_default(operation: Operation, name: str) -> None:
    request = with_minimal(operation, **{name: -1})

    assert body("ollama", request, operation) == with_minimal(operation, **{name: DEFAULT})


def test_other_kinds_are_limited_only_if_the_operator_wants_it() -> None:
    assert body("vllm", MINIMAL[CHAT]) == MINIMAL[CHAT]
    assert body("vllm", MINIMAL[CHAT], max_output_tokens=9)["max_tokens"] == 9
    request = with_minimal(CHAT, max_completion_tokens=50)
    assert body("openrouter", request, max_output_tokens=9) == with_minimal(
        CHAT, max_completion_tokens=9
    )


@pytest.mark.parametrize("operation", [Operation.EMBEDDINGS, Operation.COUNT_TOKENS])
def test_operation_without_output_has_no_limit(operation: Operation) -> None:
    assert body("vllm", MINIMAL[operation], operation, max_output_tokens=9) == MINIMAL[operation]
