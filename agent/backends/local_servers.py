"""Finds the inference servers of this machine on their well-known ports.

Only loopback is asked. A port says nothing for certain (many programs use 8000 and 8080), so the
kind is judged from what the server answers; what answers like none of the four is left alone.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import aiohttp
import msgspec
from msgspec import Struct

WELL_KNOWN_PORTS: Final = (8000, 8080, 9931, 1234, 11434)
"""Where vLLM, llama.cpp (old and new), LM Studio and Ollama listen unless told otherwise."""

PROBE_S: Final = 1.0
"""For all questions to one port: a server on this machine answers in milliseconds."""

_MAX_ANSWER_BYTES: Final = 1024 * 1024
"""More than any list of models; what is longer does not come from such a server."""


class FoundServer(Struct, frozen=True, order=True):
    """One inference server of this machine.

    Attributes:
        kind: "vllm", "llamacpp", "lmstudio" or "ollama"; the adapter's name.
        url: its base address, without a trailing slash.
    """

    kind: str
    url: str


class Answer(Struct, frozen=True):
    """What a server answered to one question.

    Attributes:
        status: of HTTP.
        server: the `Server` header, or "".
        body: the decoded JSON object; empty when it was anything else.
    """

    status: int
    server: str
    body: dict[str, object]


async def find_local_servers(
    ports: Sequence[int] = WELL_KNOWN_PORTS, *, timeout_s: float = PROBE_S
) -> list[FoundServer]:
    """Ask all ports at once; what was found is in the order of `ports`.

    Never raises for a server's fault. Cancelling it closes all connections.

    Args:
        ports: TCP ports on 127.0.0.1.
        timeout_s: how long one port may take, in seconds.
    """
    # Without the environment's proxies: they cannot reach this machine's loopback.
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        kinds = await asyncio.gather(*(_kind_at(session, url, timeout_s) for url in urls))
    return [FoundServer(kind, url) for kind, url in zip(kinds, urls, strict=True) if kind]


async def _kind_at(session: aiohttp.ClientSession, url: str, timeout_s: float) -> str | None:
    """Ask one question after the other until an answer settles the kind."""
    try:
        async with asyncio.timeout(timeout_s):
            models = await _ask(session, url + "/v1/models")
            kind = judge_models(models)
            if kind is None and models.status == 401:
                kind = judge_version(await _ask(session, url + "/version"))
            for path, judge in QUESTIONS:
                if kind is None:
                    kind = judge(await _ask(session, url + path))
            return kind
    except (TimeoutError, aiohttp.ClientError, OSError):
        return None


async def _ask(session: aiohttp.ClientSession, url: str) -> Answer:
    async with session.get(url, allow_redirects=False) as response:
        data = b""
        async for chunk in response.content.iter_any():
            data += chunk
            if len(data) > _MAX_ANSWER_BYTES:
                break
        return Answer(response.status, response.headers.get("Server", ""), _json_object(data))


def _json_object(data: bytes) -> dict[str, object]:
    try:
        return msgspec.json.decode(data, type=dict[str, object])
    except (ValueError, RecursionError):
        return {}


def judge_models(answer: Answer) -> str | None:
    """`/v1/models`: llama.cpp and vLLM sign their models; llama.cpp also signs its errors."""
    if answer.server == "llama.cpp":
        return "llamacpp"
    models = answer.body.get("data")
    if not isinstance(models, list):
        return None
    owners = [model.get("owned_by") for model in models if isinstance(model, dict)]
    if "llamacpp" in owners:
        return "llamacpp"
    return "vllm" if "vllm" in owners else None


def judge_props(answer: Answer) -> str | None:
    """`/props` exists at llama.cpp only; behind a proxy its `Server` header may be gone."""
    known = "default_generation_settings" in answer.body or answer.body.get("role") == "router"
    return "llamacpp" if answer.status == 200 and known else None


def judge_tags(answer: Answer) -> str | None:
    """`/api/tags`: Ollama's own list of models. Other programs have an `/api/version` too."""
    named = _all_have(answer.body.get("models"), "name", "digest")
    return "ollama" if answer.status == 200 and named else None


def judge_version(answer: Answer) -> str | None:
    """`/version`: vLLM tells it without the key that its list of models asks for."""
    told = isinstance(answer.body.get("version"), str)
    return "vllm" if answer.status == 200 and told else None


def judge_lmstudio_models(answer: Answer) -> str | None:
    """`/api/v1/models` (since 0.4) or `/api/v0/models`: LM Studio's own list of models."""
    if answer.status != 200:
        return None
    newer, older = answer.body.get("models"), answer.body.get("data")
    if _all_have(newer, "key", "loaded_instances") or _all_have(older, "id", "state"):
        return "lmstudio"
    return None


def _all_have(models: object, *keys: str) -> bool:
    """Whether it is a list of objects with these keys; an empty one proves nothing."""
    if not isinstance(models, list) or not models:
        return False
    return all(isinstance(model, dict) and model.keys() >= set(keys) for model in models)


QUESTIONS: Final[tuple[tuple[str, Callable[[Answer], str | None]], ...]] = (
    ("/props", judge_props),
    ("/api/tags", judge_tags),
    ("/api/v1/models", judge_lmstudio_models),
    ("/api/v0/models", judge_lmstudio_models),
)
"""What is asked where `/v1/models` settled nothing, in this order, and who judges the answer."""
