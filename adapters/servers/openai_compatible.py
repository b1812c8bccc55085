"""Any other server: a bare OpenAI model list, and the formats that the operator says it speaks.

The main operation of each format is what the operator promises; the others are asked for with an
empty request.
"""

import time
from collections.abc import Callable
from typing import ClassVar, Final

import msgspec

from provider_agent.adapters.base import BackendModel, BackendSettings
from provider_agent.adapters.servers.http_backend import HttpBackend
from provider_agent.adapters.servers.probe_cache import UNVERSIONED_TTL_S, ProbeCache
from provider_agent.protocol.formats import MAIN_OPERATION, Operation

_PRESENT: Final = frozenset({400, 422})
_BUSY: Final = frozenset({429, 502, 503, 504})
"""Says nothing about a route."""


class _Meta(msgspec.Struct):
    n_ctx: int | None = None


class _Model(msgspec.Struct):
    id: str
    max_model_len: int | None = None
    context_length: int | None = None
    meta: _Meta | None = None

    @property
    def context_window(self) -> int | None:
        """From whichever field this server happens to have; vLLM, others, llama.cpp."""
        return self.max_model_len or self.context_length or (self.meta and self.meta.n_ctx) or None


class _Models(msgspec.Struct):
    data: list[_Model]


class OpenAICompatibleBackend(HttpBackend):
    """The adapter of any other server with an OpenAI- or Anthropic-compatible API."""

    kind: ClassVar[str] = "openai_compatible"
    requires_url: ClassVar[bool] = True
    accepts_formats: ClassVar[bool] = True

    def __init__(
        self, settings: BackendSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(settings, clock=clock)
        self._probe_cache = ProbeCache(ttl_s=UNVERSIONED_TTL_S, clock=clock)

    async def check_health(self) -> None:
        """Such a server has no health route in common with others: its model list must answer."""
        await self.get_json("/v1/models", _Models)

    async def list_models(self) -> list[BackendModel]:
        """All that it lists; see `Backend.list_models`."""
        models = (await self.get_json("/v1/models", _Models)).data
        build = "\n".join(sorted(model.id for model in models))
        operations = await self._probe_cache.get(build, self._probe)
        return self.select_models(
            BackendModel(
                model_id=model.id,
                context_window=model.context_window,
                native=self.native,
                operations=operations,
                upstream_id=model.id,
            )
            for model in models
        )

    async def _probe(self) -> frozenset[Operation]:
        found = set()
        for operation in Operation:
            if operation.wire_format in self.settings.formats and (
                operation in MAIN_OPERATION.values() or await self._answers(operation)
            ):
                found.add(operation)
        return frozenset(found)

    async def _answers(self, operation: Operation) -> bool:
        """Whether an empty request is refused as such: then the route is there."""
        response = await self.request("POST", operation.path, json={})
        if response.status in _BUSY:
            raise self.status_error(response)
        return response.status in _PRESENT
