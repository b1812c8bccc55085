"""The adapter for vLLM, which supports both wire formats since about 0.11.1.

A server has one base model, its aliases and its LoRA adapters. `/health` reports whether the engine
runs, but only `/v1` checks the key, so the health check uses both. Version and model determine
which routes exist. The agent probes each route with a request for an unknown model, which generates
nothing. The response is a 404 about the model if the route exists and suits the served model, and a
404 about the path otherwise (observed with 0.32). In older versions, a route that does not suit the
served model exists too, and its response contains "does not support".
"""

import time
from collections.abc import Callable, Mapping
from typing import ClassVar, Final

import msgspec

from provider_agent.adapters.base import (
    BackendError,
    BackendModel,
    BackendSettings,
    BackendTimeouts,
    InvalidResponse,
    ModelServerLoad,
    ModelState,
    ServerLoad,
)
from provider_agent.adapters.servers.http_backend import HttpBackend
from provider_agent.adapters.servers.probe_cache import ProbeCache
from provider_agent.adapters.servers.prometheus_text import read_metrics
from provider_agent.adapters.servers.token_rate import TokenRate
from provider_agent.protocol.formats import Operation

PROBE_MODEL: Final = "provider-agent-probe"
"""A model id that no server has; it identifies the agent in vLLM's log."""

_PROBES: Final[dict[Operation, dict[str, object]]] = {
    Operation.CHAT: {"messages": []},
    Operation.COMPLETIONS: {"prompt": "x"},
    Operation.EMBEDDINGS: {"input": []},
    Operation.RESPONSES: {"input": []},
    Operation.MESSAGES: {"messages": []},
    Operation.COUNT_TOKENS: {"messages": []},
}
_ROUTE_ABSENT: Final = frozenset({405, 501})
_ROUTE_PRESENT: Final = frozenset({400, 422})

_RUNNING: Final = "vllm:num_requests_running"
_WAITING: Final = "vllm:num_requests_waiting"
_CACHE: Final = "vllm:kv_cache_usage_perc"
_OLD_CACHE: Final = "vllm:gpu_cache_usage_perc"
# These counters grow when a request ends, so that tokens and seconds belong to the same requests.
_PREFILL_TOKENS: Final = "vllm:request_prefill_kv_computed_tokens_sum"
_PREFILL_SECONDS: Final = "vllm:request_prefill_time_seconds_sum"
_DECODE_TOKENS: Final = "vllm:request_generation_tokens_sum"
_DECODE_SECONDS: Final = "vllm:request_decode_time_seconds_sum"
_GENERATED: Final = "vllm:generation_tokens_total"
# The first two grow with each step that outputs a token. The prefill of a long prompt may take many
# steps that output none, but they fill the cache.
_PROGRESS: Final = (_GENERATED, "vllm:iteration_tokens_total_count", _CACHE, _OLD_CACHE)
_METRICS: Final = (
    *_PROGRESS,
    *(_RUNNING, _WAITING),
    *(_PREFILL_TOKENS, _PREFILL_SECONDS, _DECODE_TOKENS, _DECODE_SECONDS),
)


class _Model(msgspec.Struct):
    id: str
    owned_by: str | None = None
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class _Version(msgspec.Struct):
    version: str = ""


class VllmBackend(HttpBackend):
    """One vLLM server."""

    kind: ClassVar[str] = "vllm"
    default_url: ClassVar[str] = "http://127.0.0.1:8000"
    liveness_path: ClassVar[str | None] = "/health"
    # vLLM batches requests and slows down gradually; its own limit (--max-num-seqs) is higher.
    default_max_concurrent: ClassVar[int] = 32
    # Only `stall_s` detects a frozen engine: its HTTP process still answers `/health` and
    # `/metrics`.
    default_timeouts: ClassVar[BackendTimeouts] = BackendTimeouts(stall_s=20.0)

    def __init__(
        self, settings: BackendSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(settings, clock=clock)
        self._probe_cache = ProbeCache()
        self._upstream_models: list[str] = []
        self._prefill = TokenRate()
        self._decode = TokenRate()

    async def check_health(self) -> None:
        """Check that the engine runs and the key is accepted."""
        response = await self.request("GET", "/health")
        if response.status == 503:
            raise BackendError(
                "the engine of this vLLM server has failed (status 503); restart the server"
            )
        if response.status != 200:
            raise self.status_error(response)
        models = (await self.get_json("/v1/models", _Models)).data
        # llama.cpp answers a request for any model: to it, the probes are valid requests.
        if any(model.owned_by == "llamacpp" for model in models):
            raise InvalidResponse('this is a llama.cpp server; set kind = "llamacpp"')

    async def list_models(self) -> list[BackendModel]:
        """List the base model under each name, and its LoRA adapters; see `Backend.list_models`."""
        models = (await self.get_json("/v1/models", _Models)).data
        operations = await self._operations(models)
        self._upstream_models = [model.id for model in models]
        windows = {model.id: model.max_model_len for model in models if not model.parent}
        return self.select_models(
            BackendModel(
                model_id=model.id,
                # vLLM reports no window for a LoRA adapter: it has that of its base model.
                context_window=model.max_model_len or windows.get(model.parent or ""),
                native=self.native,
                operations=operations,
                upstream_id=model.id,
            )
            for model in models
        )

    async def load(self) -> ServerLoad | None:
        """Return the load from `/metrics`; None if the server has no such route.

        Counts are summed over the engines, cache use is averaged. The server counts the requests of
        all models together, because they share the base model.
        """
        response = await self.request("GET", "/metrics")
        if response.status == 404:
            return None
        if response.status != 200:
            raise self.status_error(response)
        found = read_metrics(response.body, _METRICS)
        cache = found.get(_CACHE) or found.get(_OLD_CACHE)
        total = {name: sum(values) for name, values in found.items()}
        model = ModelServerLoad(
            state=ModelState.LOADED,
            prefill_tokens_per_second=self._prefill.update(
                total.get(_PREFILL_TOKENS), total.get(_PREFILL_SECONDS)
            ),
            decode_tokens_per_second=self._decode.update(
                total.get(_DECODE_TOKENS), total.get(_DECODE_SECONDS)
            ),
        )
        return ServerLoad(
            running=_rounded(total.get(_RUNNING)),
            waiting=_rounded(total.get(_WAITING)),
            cache_used=sum(cache) / len(cache) if cache else None,
            progress=_progress(found),
            models=self.by_model_id(dict.fromkeys(self._upstream_models, model)),
        )

    async def _operations(self, models: list[_Model]) -> frozenset[Operation]:
        """Return the operations, the same for all models, which share the base model."""
        response = await self.request("GET", "/version")
        self.version = response.decode(_Version).version if response.status == 200 else ""
        roots = sorted({model.root or model.id for model in models if not model.parent})
        return await self._probe_cache.get("\n".join([self.version, *roots]), self._probe)

    async def _probe(self) -> frozenset[Operation]:
        return frozenset([operation for operation in _PROBES if await self._supports(operation)])

    async def _supports(self, operation: Operation) -> bool:
        """Return whether the route exists and supports the served model."""
        request = {"model": PROBE_MODEL, **_PROBES[operation]}
        response = await self.probe_route(operation, request, inconclusive=())
        if response.status in _ROUTE_ABSENT or b"does not support" in response.body:
            return False
        if response.status == 404:
            return b"model" in response.body.lower()
        # Another server under the name of vLLM may answer a request for any model.
        if response.status in _ROUTE_PRESENT or 200 <= response.status < 300:
            return True
        raise self.status_error(response)


def _progress(found: Mapping[str, list[float]]) -> str | None:
    """Return the values that change with the engine's steps; None if `_GENERATED` is missing."""
    values = {name: found[name] for name in _PROGRESS if name in found}
    return repr(values) if _GENERATED in values else None


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
