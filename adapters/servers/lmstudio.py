"""LM Studio: loaded instances of the operator's models, in both formats since 0.4.1.

Routes it does not know answer 200 with an error body, so the shape of an answer tells, never its
status (issues 1323, 2055 and 2085 of its tracker). The native API says what is loaded and with
which window: `/api/v1/models` since 0.4.0, `/api/v0/models` since 0.3.6. Where it says so, only
what is loaded is offered: an unloaded model has no window yet, and its load may fail. The OpenAI
list says nothing of it, so there everything is offered. No list tells the version of the server.
"""

import time
from collections.abc import Callable, Iterator
from typing import ClassVar, Final, TypeVar

import msgspec

from provider_agent.adapters.base import (
    BackendModel,
    BackendSettings,
    BackendTimeouts,
    BadStatus,
    InvalidResponse,
    RequestPolicy,
)
from provider_agent.adapters.servers.http_backend import HttpBackend
from provider_agent.adapters.servers.probe_cache import UNVERSIONED_TTL_S, ProbeCache
from provider_agent.protocol.formats import Operation

_TEXT_TYPES: Final = frozenset({"llm", "vlm"})
_EMBEDDING_TYPES: Final = frozenset({"embedding", "embeddings"})
_EMBEDDINGS: Final = frozenset({Operation.EMBEDDINGS})
_NO_SUCH_ROUTE: Final = frozenset({404, 405, 501})
_UNDECIDED: Final = frozenset({401, 403, 429, 503})

_NOT_LOADED: Final = "not loaded; load it in LM Studio, with the window it shall have"
_REMOTE: Final = "another machine runs it (LM Link); offer it there"


class _Config(msgspec.Struct):
    context_length: int | None = None
    parallel: int | None = None


class _Instance(msgspec.Struct):
    id: str
    config: _Config = msgspec.field(default_factory=_Config)
    device: str | None = msgspec.field(name="deviceIdentifier", default=None)


class _Model(msgspec.Struct):
    type: str
    key: str = ""
    loaded_instances: list[_Instance] = []
    device: str | None = msgspec.field(name="deviceIdentifier", default=None)


class _Models(msgspec.Struct):
    """`/api/v1/models`."""

    models: list[_Model]


class _OldModel(msgspec.Struct):
    id: str
    type: str
    state: str
    loaded_context_length: int | None = None


class _OldModels(msgspec.Struct):
    """`/api/v0/models`."""

    data: list[_OldModel]


class _BareModel(msgspec.Struct):
    id: str


class _BareModels(msgspec.Struct):
    """`/v1/models`."""

    data: list[_BareModel]


_ListT = TypeVar("_ListT", _Models, _OldModels)


class LmStudioBackend(HttpBackend):
    """The adapter of LM Studio."""

    kind: ClassVar[str] = "lmstudio"
    default_url: ClassVar[str] = "http://127.0.0.1:1234"
    # How long a model stays in memory, a second model beside the advertised one, and tool servers
    # that the operator's machine would call.
    request_policy: ClassVar[RequestPolicy] = RequestPolicy(
        frozenset({"ttl", "draft_model", "integrations"}), ("mcp",)
    )
    default_max_concurrent: ClassVar[int] = 1
    # A model that was unloaded when idle is loaded again by the next request, without any output.
    default_timeouts: ClassVar[BackendTimeouts] = BackendTimeouts(first_byte_s=600.0)

    def __init__(
        self, settings: BackendSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(settings, clock=clock)
        self._probe_cache = ProbeCache(ttl_s=UNVERSIONED_TTL_S, clock=clock)

    async def check_health(self) -> None:
        """There is no health route: a model list of a known shape is the sign of life."""
        await self._listed()

    async def list_models(self) -> list[BackendModel]:
        """What is there, and what is loaded, as far as it tells; see `Backend.list_models`."""
        listed = await self._listed()
        supported = await self._probe_cache.get(type(listed).__name__, self._probe)
        if isinstance(listed, _BareModels):
            return self.select_models(
                self._model(model.id, "llm", supported) for model in listed.data
            )
        if isinstance(listed, _OldModels):
            return self.select_models(self._old_model(model, supported) for model in listed.data)
        if self.settings.max_concurrent is None:
            parallel = [
                one.config.parallel or 0
                for model in listed.models
                if model.type in _TEXT_TYPES
                for one in model.loaded_instances
            ]
            self.max_concurrent = max(parallel, default=0) or self.default_max_concurrent
        return self.select_models(self._new_models(listed, supported))

    async def _listed(self) -> _Models | _OldModels | _BareModels:
        """The best list that this version has."""
        newest = await self._list_at("/api/v1/models", _Models)
        if newest is not None:
            return newest
        older = await self._list_at("/api/v0/models", _OldModels)
        return older if older is not None else await self.get_json("/v1/models", _BareModels)

    async def _list_at(self, path: str, shape: type[_ListT]) -> _ListT | None:
        """None where this version has no such route."""
        try:
            return await self.get_json(path, shape)
        except InvalidResponse:
            return None
        except BadStatus as error:
            if error.status in _NO_SUCH_ROUTE:
                return None
            raise

    async def _probe(self) -> frozenset[Operation]:
        return frozenset([operation for operation in Operation if await self._answers(operation)])

    async def _answers(self, operation: Operation) -> bool:
        """Whether an empty request meets anything but "unexpected endpoint"."""
        response = await self.request("POST", operation.path, json={})
        if response.status in _UNDECIDED:
            raise self.status_error(response)
        missing = b"unexpected endpoint" in response.body.lower()
        return not missing and response.status not in _NO_SUCH_ROUTE

    def _new_models(
        self, listed: _Models, supported: frozenset[Operation]
    ) -> Iterator[BackendModel]:
        for model in listed.models:
            if not model.loaded_instances:
                withheld = _REMOTE if model.device else _NOT_LOADED
                yield self._model(model.key, model.type, supported, withheld=withheld)
            for one in model.loaded_instances:
                yield self._model(
                    one.id,
                    model.type,
                    supported,
                    context_window=one.config.context_length,
                    withheld=_REMOTE if model.device or one.device else "",
                )

    def _old_model(self, model: _OldModel, supported: frozenset[Operation]) -> BackendModel:
        return self._model(
            model.id,
            model.type,
            supported,
            context_window=model.loaded_context_length,
            withheld="" if model.state == "loaded" else _NOT_LOADED,
        )

    def _model(
        self,
        model_id: str,
        model_type: str,
        supported: frozenset[Operation],
        *,
        context_window: int | None = None,
        withheld: str = "",
    ) -> BackendModel:
        if model_type in _TEXT_TYPES:
            operations = supported - _EMBEDDINGS
        else:
            operations = supported & _EMBEDDINGS if model_type in _EMBEDDING_TYPES else frozenset()
        return BackendModel(
            model_id=model_id,
            context_window=context_window,
            native=self.native,
            operations=operations,
            upstream_id=model_id,
            withheld=withheld,
        )
