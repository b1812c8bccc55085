"""What the log says about refused requests: names of the policy, no text of the client."""

import json
from typing import Any

import pytest

from provider_agent.adapters.base import Operation
from provider_agent.adapters.errors import RefusedRequest
from provider_agent.adapters.registry import backend_class
from provider_agent.adapters.requests.policy import default_policy
from tests.unit.adapters.requests.prepared import HTTP_KINDS, REFUSE, body, with_minimal

SECRET = "my-secret"
IMAGE = {"type": "image_url", "image_url": {"url": f"http://{SECRET}"}}
DEEP = f"{SECRET}{{" * 20
NOT_ACCEPTED = "this provider does not accept: "


@pytest.mark.parametrize(
    ("fields", "settings", "expected"),
    [
        ({"n": 9}, {}, "n is not between 1 and 8"),
        ({"stream": "true"}, {}, "stream is not true, false or null"),
        ({"top_k": SECRET}, {}, "top_k is not a number"),
        ({"prompt": SECRET}, {}, NOT_ACCEPTED + "prompt"),
        ({SECRET: 1}, {"request_policy": REFUSE}, NOT_ACCEPTED + "an unknown field"),
        (
            {"seed": 1, SECRET: 1, f"{SECRET}.x": 2, "tools": [{"type": SECRET}]},
            {"request_policy": REFUSE, "strip_fields": ("seed",)},
            NOT_ACCEPTED + "seed, an unknown field",
        ),
        ({SECRET: [1] * 300_000}, {}, "a field has over 100000 values"),
        (
            {"messages": [{"role": "user", "content": [IMAGE]}]},
            {},
            "messages.content.image_url.url: this provider accepts only URLs that begin with data:",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": SECRET}]}]},
            {},
            NOT_ACCEPTED + "messages.content of an unknown type",
        ),
    ],
)
def test_message_for_the_log_names_the_field_and_the_rule(
    fields: dict[str, object], settings: dict[str, Any], expected: str
) -> None:
    with pytest.raises(RefusedRequest) as caught:
        body("vllm", with_minimal(Operation.CHAT, **fields), **settings)

    assert caught.value.log_message == expected


@pytest.mark.parametrize("kind", HTTP_KINDS)
@pytest.mark.parametrize("operation", Operation)
def test_message_for_the_log_contains_no_text_of_the_client(
    kind: str, operation: Operation
) -> None:
    hostile: list[object] = [SECRET, {SECRET: SECRET}, [SECRET], [{"type": SECRET}], DEEP]
    hostile += [{"type": SECRET, SECRET: {}}, [[{SECRET: DEEP}]], {"url": f"http://{SECRET}"}]
    names = [*_names(kind, operation), SECRET]
    messages = []
    for name in names:
        for value in hostile:
            request = with_minimal(operation, **{name: value})
            try:
                body(kind, request, operation, request_policy=REFUSE)
            except RefusedRequest as error:
                messages.append(error.log_message)

    assert messages
    assert SECRET not in json.dumps(messages)
    assert all(messages)


def _names(kind: str, operation: Operation) -> list[str]:
    adapter = backend_class(kind)
    policy = adapter.request_policy or default_policy(native=adapter.native)
    return list(policy.fields.get(operation, {}))
