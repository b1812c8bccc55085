"""Identifies inference servers, and finds those of this machine on their well-known ports.

A port does not identify a server (many programs use 8000 and 8080), so the product is identified
from the responses to several probes: HTTP requests to which one product responds differently from
all others. A server that matches no product is ignored.
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

WELL_KNOWN_PORTS: Final = (8000, 8080, 9931, 1234, 11434, 30000)
"""The default ports of vLLM, llama.cpp (8080, and 9931, which is announced for later versions), LM
Studio, Ollama and SGLang."""

PRODUCTS: Final = {
    "vllm": "vLLM",
    "llamacpp": "llama.cpp",
    "lmstudio": "LM Studio",
    "ollama": "Ollama",
    "sglang": "SGLang",
}
"""The names of the products that the probes identify."""

PROBE_TIMEOUT_S: Final = 1.0
"""Seconds for all requests to one port; a server on this machine answers in milliseconds."""

_MAX_BODY_BYTES: Final = 1024 * 1024
"""Larger than any list of models; the rest of a longer body is not read."""

_HEADERS: Final = {"User-Agent": "provider-agent", "Accept-Encoding": "identity"}


class FoundServer(Struct, frozen=True, order=True):
    """One identified inference server.

    Attributes:
        product: a key of `PRODUCTS`.
        url: the base URL, without a trailing slash.
    """

    product: str
    url: str

    @property
    def kind(self) -> str:
        """The kind of backend that serves it."""
        return "openai_compatible" if self.product == "sglang" else self.product

    @property
    def name(self) -> str:
        """The name of the product, for humans."""
        return PRODUCTS[self.product]

    def __str__(self) -> str:
        return f"{self.name} at {self.url}"


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
    found = await asyncio.gather(*(identify_server(url, timeout_s=timeout_s) for url in urls))
    return [server for server in found if server is not None]


async def identify_server(url: str, *, timeout_s: float) -> FoundServer | None:
    """Send one probe after another until a response identifies the product; None if none does.

    Faults of the server raise no exception. Cancelling this coroutine closes its connection.

    Args:
        url: the base URL of the server, without a trailing slash.
        timeout_s: seconds for all requests.
    """
    try:
        # The environment's proxies are not used: they cannot reach this machine's loopback.
        client = DirectClient(url, _HEADERS, reuse=False, remote=False, connect_s=timeout_s)
        async with asyncio.timeout(timeout_s):
            models = await _get(client, "/v1/models")
            product = identify_models(models)
            if product is None and models.status == 401:
                product = identify_version(await _get(client, "/version"))
            for path, identify in PROBES:
                if product is None:
                    product = identify(await _get(client, path))
            if product is None and await _is_empty_ollama(client):
                product = "ollama"
    except (TimeoutError, BackendError):
        return None
    return None if product is None else FoundServer(product, url)


async def _is_empty_ollama(client: HttpClient) -> bool:
    """Whether the server is an Ollama without models; each response alone is no evidence."""
    tags = await _get(client, "/api/tags")
    if tags.status != 200 or tags.body != {"models": []}:
        return False
    version = await _get(client, "/api/version")
    return version.status == 200 and isinstance(version.body.get("version"), str)


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
    """`/v1/models`: llama.cpp, vLLM and SGLang name themselves in `owned_by`.

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
    return next((product for product in ("vllm", "sglang") if product in owners), None)


def identify_props(response: ProbeResponse) -> str | None:
    """`/props` exists on llama.cpp only.

    It identifies llama.cpp even behind a proxy that removes the `Server` header.
    """
    known = "default_generation_settings" in response.body or response.body.get("role") == "router"
    return "llamacpp" if response.status == 200 and known else None


def identify_tags(response: ProbeResponse) -> str | None:
    """`/api/tags`: Ollama's own list of models. `/api/version` would match other programs too."""
    models = response.body.get("models")
    # Models that run on another machine may have no digest.
    named = isinstance(models, list) and any(_all_have([one], "name", "digest") for one in models)
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
"""The probes if `/v1/models` identified no product, in order: path, and the function that returns
the product that a response identifies, or None."""
