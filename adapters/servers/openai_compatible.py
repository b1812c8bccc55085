"""The adapter for any other server that has an OpenAI model list.

The operator declares the wire formats. The main operation of each declared format is assumed to be
supported; the other operations of these formats are probed with an empty request. A remote service
that the operator pays has a kind of its own, because its models must not be offered as native ones.
"""

import time
from collections.abc import Callable
from typing import ClassVar, Final

import msgspec

from provider_agent.adapters.base import BackendModel, BackendSettings, BackendTimeouts
from provider_agent.adapters.servers.http_backend import HttpBackend
from provider_agent.adapters.servers.passthrough import REMOTE_TIMEOUTS
from provider_agent.adapters.servers.probe_cache import UNVERSIONED_TTL_S, ProbeCache
from provider_agent.protocol.formats import MAIN_OPERATION, Operation

_ROUTE_PRESENT: Final = frozenset({400, 422})
_BUSY: Final = frozenset({429, 502, 503, 504})


class _Meta(msgspec.Struct):
    n_ctx: int | None = None


class _Model(msgspec.Struct):
    id: str
    max_model_len: int | None = None
    context_length: int | None = None
    meta: _Meta | None = None

    @property
    def context_window(self) -> int | None:
        """The first reported value of three fields.

        `max_model_len` is the field of vLLM, `context_length` that of various servers, and
        `meta.n_ctx` that of llama.cpp.
        """
        return self.max_model_len or self.context_length or (self.meta and self.meta.n_ctx) or None


class _Models(msgspec.Struct):
    data: list[_Model]


class OpenAICompatibleBackend(HttpBackend):
    """One server with an OpenAI-compatible or Anthropic-compatible API."""

    kind: ClassVar[str] = "openai_compatible"
    requires_url: ClassVar[bool] = True
    accepts_formats: ClassVar[bool] = True

    def __init__(
        self, settings: BackendSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(settings, clock=clock)
        self._probe_cache = ProbeCache(ttl_s=UNVERSIONED_TTL_S, clock=clock)

    async def check_health(self) -> None:
        """Check that the model list is available; these servers have no common health route."""
        await self.get_json("/v1/models", _Models)

    async def list_models(self) -> list[BackendModel]:
        """List all models of the server; see `Backend.list_models`."""
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
                operation in MAIN_OPERATION.values() or await self._supports(operation)
            ):
                found.add(operation)
        return frozenset(found)

    async def _supports(self, operation: Operation) -> bool:
        """Return whether the server rejects an empty request as malformed: the route exists."""
        response = await self.probe_route(operation, {}, inconclusive=_BUSY)
        return response.status in _ROUTE_PRESENT


class OpenAIPassthroughBackend(OpenAICompatibleBackend):
    """One account at a remote service with an OpenAI-compatible or Anthropic-compatible API.

    Its models have no known price: each is offered at the price that the operator sets.
    """

    kind: ClassVar[str] = "openai_passthrough"
    native: ClassVar[bool] = False
    # To confirm a failure, `generate_token` would spend the operator's money.
    confirms_failures: ClassVar[bool] = False
    default_timeouts: ClassVar[BackendTimeouts] = REMOTE_TIMEOUTS
