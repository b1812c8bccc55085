"""The adapter for LM Studio, which supports both wire formats since 0.4.1.

Unknown routes return 200 with an error body, so the adapter checks the body of each response
(issues 1323, 2055 and 2085 of LM Studio's tracker). The native API reports which models are loaded
and their context windows: `/api/v1/models` since 0.4.0, `/api/v0/models` since 0.3.6. With these
lists, only loaded models are offered: an unloaded model has no window yet, and loading it may fail.
Older versions have only the OpenAI list, which does not show whether a model is loaded; there all
models are offered. No list includes the server's version.
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
    ModelServerLoad,
    ModelState,
    ServerLoad,
)
from provider_agent.adapters.servers.http_backend import ROUTE_ABSENT, HttpBackend
from provider_agent.adapters.servers.input_kinds import kinds_from_flags
from provider_agent.adapters.servers.probe_cache import UNVERSIONED_TTL_S, ProbeCache
from provider_agent.protocol.formats import Operation

_TEXT_TYPES: Final = frozenset({"llm", "vlm"})
_EMBEDDING_TYPES: Final = frozenset({"embedding", "embeddings"})
_EMBEDDINGS: Final = frozenset({Operation.EMBEDDINGS})

_NOT_LOADED: Final = "not loaded; load it in LM Studio with the context window to offer"
_REMOTE: Final = "runs on another machine (LM Link); offer it there"


class _Config(msgspec.Struct):
    context_length: int | None = None
    parallel: int | None = None


class _Instance(msgspec.Struct):
    id: str
    config: _Config = msgspec.field(default_factory=_Config)
    device: str | None = msgspec.field(name="deviceIdentifier", default=None)


class _Capabilities(msgspec.Struct):
    vision: bool | None = None
    trained_for_tool_use: bool | None = None
    reasoning: object = None
    """The reasoning settings of a model that has some; 0.4.6 reports none (issue 1659)."""


class _Model(msgspec.Struct):
    type: str
    key: str = ""
    loaded_instances: list[_Instance] = []
    capabilities: _Capabilities | None = None
    device: str | None = msgspec.field(name="deviceIdentifier", default=None)


class _Models(msgspec.Struct):
    """`/api/v1/models`."""

    models: list[_Model]


class _OldModel(msgspec.Struct):
    id: str
    type: str
    state: str
    loaded_context_length: int | None = None
    capabilities: list[str] | None = None
    """May contain `tool_use`; since 0.3.16."""


class _OldModels(msgspec.Struct):
    """`/api/v0/models`."""

    data: list[_OldModel]


class _BareModel(msgspec.Struct):
    id: str


class _BareModels(msgspec.Struct):
    """`/v1/models`."""

    data: list[_BareModel]


class _Features(msgspec.Struct):
    input_kinds: frozenset[str] | None = None
    tools: bool | None = None
    reasoning: bool | None = None


_ListT = TypeVar("_ListT", _Models, _OldModels)


class LmStudioBackend(HttpBackend):
    """One LM Studio server."""

    kind: ClassVar[str] = "lmstudio"
    default_url: ClassVar[str] = "http://127.0.0.1:1234"
    default_max_concurrent: ClassVar[int] = 1
    # A request for a model that was unloaded while idle first loads the model; until it is loaded,
    # the server sends no byte of the response.
    default_timeouts: ClassVar[BackendTimeouts] = BackendTimeouts(first_byte_s=600.0)

    def __init__(
        self, settings: BackendSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(settings, clock=clock)
        self._probe_cache = ProbeCache(ttl_s=UNVERSIONED_TTL_S, clock=clock)
        self._loaded: dict[str, ModelServerLoad] = {}

    async def check_health(self) -> None:
        """Check that a model list has a known shape; there is no health route."""
        await self._fetch_models()

    async def list_models(self) -> list[BackendModel]:
        """List the models, with their state if reported; see `Backend.list_models`."""
        listed = await self._fetch_models()
        self._loaded = dict.fromkeys(_loaded_ids(listed), ModelServerLoad(ModelState.LOADED))
        supported = await self._probe_cache.get(type(listed).__name__, self._probe)
        if isinstance(listed, _BareModels):
            return self.select_models(
                self._model(model.id, "llm", supported, _Features()) for model in listed.data
            )
        if isinstance(listed, _OldModels):
            return self.select_models(self._old_model(model, supported) for model in listed.data)
        parallel = [
            instance.config.parallel or 0
            for model in listed.models
            if model.type in _TEXT_TYPES
            for instance in model.loaded_instances
        ]
        self.adopt_capacity(max(parallel, default=None))
        return self.select_models(self._new_models(listed, supported))

    async def load(self) -> ServerLoad | None:
        """Return the models that were loaded at the last `list_models`; None if there are none.

        LM Studio has no route for its load.
        """
        return ServerLoad(models=self.by_model_id(self._loaded)) if self._loaded else None

    async def _fetch_models(self) -> _Models | _OldModels | _BareModels:
        """Fetch the most detailed list that this version has."""
        newest = await self._fetch_list("/api/v1/models", _Models)
        if newest is not None:
            return newest
        older = await self._fetch_list("/api/v0/models", _OldModels)
        return older if older is not None else await self.get_json("/v1/models", _BareModels)

    async def _fetch_list(self, path: str, list_type: type[_ListT]) -> _ListT | None:
        """Fetch one kind of list; None if this version does not have it."""
        try:
            return await self.get_json(path, list_type)
        except InvalidResponse:
            return None
        except BadStatus as error:
            if error.status in ROUTE_ABSENT:
                return None
            raise

    async def _probe(self) -> frozenset[Operation]:
        return frozenset([operation for operation in Operation if await self._supports(operation)])

    async def _supports(self, operation: Operation) -> bool:
        response = await self.probe_route(operation, {})
        is_unknown = b"unexpected endpoint" in response.body.lower()
        return not is_unknown and response.status not in ROUTE_ABSENT

    def _new_models(
        self, listed: _Models, supported: frozenset[Operation]
    ) -> Iterator[BackendModel]:
        for model in listed.models:
            can = model.capabilities or _Capabilities()
            features = _Features(
                input_kinds=kinds_from_flags(image=can.vision),
                tools=can.trained_for_tool_use,
                reasoning=True if can.reasoning else None,
            )
            if not model.loaded_instances:
                withheld = _REMOTE if model.device else _NOT_LOADED
                yield self._model(model.key, model.type, supported, features, withheld=withheld)
            for instance in model.loaded_instances:
                yield self._model(
                    instance.id,
                    model.type,
                    supported,
                    features,
                    context_window=instance.config.context_length,
                    withheld=_REMOTE if model.device or instance.device else "",
                )

    def _old_model(self, model: _OldModel, supported: frozenset[Operation]) -> BackendModel:
        can = model.capabilities
        features = _Features(
            input_kinds=kinds_from_flags(image=model.type == "vlm"),
            tools=None if can is None else "tool_use" in can,
        )
        return self._model(
            model.id,
            model.type,
            supported,
            features,
            context_window=model.loaded_context_length,
            withheld="" if model.state == "loaded" else _NOT_LOADED,
        )

    def _model(
        self,
        model_id: str,
        model_type: str,
        supported: frozenset[Operation],
        features: _Features,
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
            input_kinds=features.input_kinds,
            tools=features.tools,
            reasoning=features.reasoning,
        )


def _loaded_ids(listed: _Models | _OldModels | _BareModels) -> list[str]:
    """Return the ids of the loaded models; empty if the list does not show which are loaded."""
    if isinstance(listed, _Models):
        return [instance.id for model in listed.models for instance in model.loaded_instances]
    if isinstance(listed, _OldModels):
        return [model.id for model in listed.data if model.state == "loaded"]
    return []
