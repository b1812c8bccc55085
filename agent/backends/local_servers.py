"""Finds the inference servers of this machine on their well-known ports.

Only loopback is probed. A port does not identify a server (many programs use 8000 and 8080), so the
kind is identified from the responses to several probes: HTTP requests to which one kind responds
differently from all others. A server that matches none of the four kinds is ignored.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from provider_agent.adapters.errors import BackendError
from provider_agent.adapters.http.body_collector import BodyCollector
from provider_agent.adapters.http.client import HttpClient, HttpRequest
from provider_agent.adapters.http.direct_client import DirectClient

WELL_KNOWN_PORTS: Final = (8000, 8080, 9931, 1234, 11434)
"""The default ports of vLLM, llama.cpp (8080, and 9931, which is announced for later versions), LM
Studio and Ollama."""

PROBE_TIMEOUT_S: Final = 1.0
"""Seconds for all requests to one port; a server on this machine answers in milliseconds."""

_MAX_BODY_BYTES: Final = 1024 * 1024
"""Larger than any list of models; the rest of a longer body is not read."""


_HEADERS: Final = {"User-Agent": "provider-agent", "Accept-Encoding": "identity"}


class FoundServer(Struct, frozen=True, order=True):
    """One inference server of this machine.

    Attributes:
        kind: "vllm", "llamacpp", "lmstudio" or "ollama"; the name of the backend's kind.
        url: the base URL, without a trailing slash.
    """

    kind: str
    url: str


class ProbeResponse(Struct, frozen=True):
    """A server's response to one probe.

    Attributes:
        status: the HTTP status.
        server: the `Server` header, or "".
        body: the decoded JSON object; empty if the body is not a JSON object.
    """

    status: int
    server: str
    body: dict[str, object]


async def find_local_servers(
    ports: Sequence[int] = WELL_KNOWN_PORTS, *, timeout_s: float = PROBE_TIMEOUT_S
) -> list[FoundServer]:
    """Probe all ports concurrently; the result is in the order of `ports`.

    Faults of a server raise no exception. Cancelling this coroutine closes all connections.

    Args:
        ports: TCP ports on 127.0.0.1.
        timeout_s: seconds for all requests to one port.
    """
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    kinds = await asyncio.gather(*(_probe_port(url, timeout_s) for url in urls))
    return [FoundServer(kind, url) for kind, url in zip(kinds, urls, strict=True) if kind]


async def _probe_port(url: str, timeout_s: float) -> str | None:
    """Send one probe after another until a response identifies the kind; None if none does."""
    # The environment's proxies are not used: they cannot reach this machine's loopback.
    client = DirectClient(url, _HEADERS, reuse=False, remote=False, connect_s=timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            models = await _get(client, "/v1/models")
            kind = identify_models(models)
            if kind is None and models.status == 401:
                kind = identify_version(await _get(client, "/version"))
            for path, identify in PROBES:
                if kind is None:
                    kind = identify(await _get(client, path))
            return kind
    except (TimeoutError, BackendError):
        return None


async def _get(client: HttpClient, path: str) -> ProbeResponse:
    response = BodyCollector(_MAX_BODY_BYTES)
    await client.exchange(HttpRequest(path, {}, None, "GET"), response)
    head = response.head
    return ProbeResponse(head.status, head.headers.get("Server", ""), _json_object(response.body))


def _json_object(data: bytearray) -> dict[str, object]:
    try:
        return msgspec.json.decode(data, type=dict[str, object])
    except (ValueError, RecursionError):
        return {}


def identify_models(response: ProbeResponse) -> str | None:
    """`/v1/models`: llama.cpp and vLLM name themselves in `owned_by`.

    llama.cpp names itself in the `Server` header too.
    """
    if response.server == "llama.cpp":
        return "llamacpp"
    models = response.body.get("data")
    if not isinstance(models, list):
        return None
    owners = [model.get("owned_by") for model in models if isinstance(model, dict)]
    if "llamacpp" in owners:
        return "llamacpp"
    return "vllm" if "vllm" in owners else None


def identify_props(response: ProbeResponse) -> str | None:
    """`/props` exists on llama.cpp only.

    It identifies llama.cpp even behind a proxy that removes the `Server` header.
    """
    known = "default_generation_settings" in response.body or response.body.get("role") == "router"
    return "llamacpp" if response.status == 200 and known else None


def identify_tags(response: ProbeResponse) -> str | None:
    """`/api/tags`: Ollama's own list of models. `/api/version` would match other programs too."""
    named = _all_have(response.body.get("models"), "name", "digest")
    return "ollama" if response.status == 200 and named else None


def identify_version(response: ProbeResponse) -> str | None:
    """`/version`: vLLM serves it without the key that its list of models requires."""
    versioned = isinstance(response.body.get("version"), str)
    return "vllm" if response.status == 200 and versioned else None


def identify_lmstudio_models(response: ProbeResponse) -> str | None:
    """`/api/v1/models` (since 0.4) or `/api/v0/models`: LM Studio's own list of models."""
    if response.status != 200:
        return None
    newer, older = response.body.get("models"), response.body.get("data")
    if _all_have(newer, "key", "loaded_instances") or _all_have(older, "id", "state"):
        return "lmstudio"
    return None


def _all_have(models: object, *keys: str) -> bool:
    """Whether `models` is a list of objects with these keys; an empty list is no evidence."""
    if not isinstance(models, list) or not models:
        return False
    return all(isinstance(model, dict) and model.keys() >= set(keys) for model in models)


PROBES: Final[tuple[tuple[str, Callable[[ProbeResponse], str | None]], ...]] = (
    ("/props", identify_props),
    ("/api/tags", identify_tags),
    ("/api/v1/models", identify_lmstudio_models),
    ("/api/v0/models", identify_lmstudio_models),
)
"""The probes if `/v1/models` identified no kind, in order: path, and the function that returns the
kind that a response identifies, or None."""
