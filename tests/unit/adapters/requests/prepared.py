"""Prepares requests as the backend of a kind does, without a server."""

import json
from typing import Any

from provider_agent.adapters.base import BackendSettings, Job, Operation, PolicyMode, WireFormat
from provider_agent.adapters.registry import backend_class, create_backend
from provider_agent.adapters.servers.http_backend import HttpBackend

MESSAGES: list[dict[str, object]] = [{"role": "user", "content": "hi"}]
MINIMAL: dict[Operation, dict[str, Any]] = {
    Operation.CHAT: {"messages": MESSAGES},
    Operation.COMPLETIONS: {"prompt": "hi"},
    Operation.EMBEDDINGS: {"input": "hi"},
    Operation.RESPONSES: {"input": "hi"},
    Operation.MESSAGES: {"messages": MESSAGES, "max_tokens": 5},
    Operation.COUNT_TOKENS: {"messages": MESSAGES},
}
HTTP_KINDS = (
    *("vllm", "llamacpp", "lmstudio", "ollama", "openrouter", "venice"),
    *("openai_compatible", "openai_passthrough"),
)
NATIVE_KINDS = tuple(kind for kind in HTTP_KINDS if backend_class(kind).native)
STRIP, REFUSE, PASS = PolicyMode.STRIP, PolicyMode.REFUSE, PolicyMode.PASS


def raw_body(
    kind: str, request: bytes, operation: Operation = Operation.CHAT, **settings: Any
) -> bytes:
    """Return the bytes that the backend would send."""
    backend = create_backend(
        BackendSettings(kind=kind, url="http://127.0.0.1:1", api_key="k", **settings)
    )
    assert isinstance(backend, HttpBackend)
    wire_format = WireFormat(operation.wire_format)
    job = Job(b"j" * 16, "m", wire_format, request, 60_000, operation.value)
    return backend.prepare(job, operation).body


def body(
    kind: str, request: object, operation: Operation = Operation.CHAT, **settings: Any
) -> dict[str, Any]:
    """Return what the backend would send, without `model` and the fields that the adapter adds.

    The output token limit that Ollama's adapter adds is left out, unless the request sets a limit.
    """
    sent = json.loads(raw_body(kind, json.dumps(request).encode(), operation, **settings))
    assert isinstance(sent, dict)
    assert sent.pop("model") == "m"
    sent.pop("venice_parameters", None)
    if kind == "ollama" and not {"max_tokens", "max_output_tokens"} & set(request):  # type: ignore[call-overload]
        sent.pop("max_tokens", None)
        sent.pop("max_output_tokens", None)
    return sent


def with_minimal(operation: Operation, **fields: object) -> dict[str, object]:
    """Return a small valid request of an operation with further fields."""
    return {**MINIMAL[operation], **fields}
