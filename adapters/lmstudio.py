"""LM Studio: loaded instances of the operator's models, in both formats since 0.4.1.

Routes it does not know answer 200 with an error body, so the shape of an answer tells, never its
status (issues 1323, 2055 and 2085 of its tracker). The native API says what is loaded and with
which window: `/api/v1/models` since 0.4.0, `/api/v0/models` since 0.3.6. Where it says so, only
what is loaded is offered: an unloaded model has no window yet, and its load may fail. The OpenAI
list says nothing of it, so there everything is offered.
"""

import time
from collections.abc import Callable, Iterator
from typing import ClassVar, Final, TypeVar

import msgspec

from adapters.base import BackendModel, BackendSettings, BadStatus, InvalidResponse
from adapters.http import HttpBackend
from protocol.formats import Operation

_CHAT_TYPES: Final = frozenset({"llm", "vlm"})
_CHAT: Final = frozenset({Operation.CHAT})
_NO_SUCH_ROUTE: Final = frozenset({404, 405})


class _Config(msgspec.Struct):
    context_length: int | None = None
    parallel: int | None = None


class _Instance(msgspec.Struct):
    id: str
    config: _Config = msgspec.field(default_factory=_Config)


class _Model(msgspec.Struct):
    type: str
    loaded_instances: list[_Instance] = []


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
    """See the module's text."""

    kind: ClassVar[str] = "lmstudio"
    default_max_concurrent: ClassVar[int] = 1

    def __init__(
        self, settings: BackendSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(settings, clock=clock)
        self._speaks_messages = False

    async def check_health(self) -> None:
        """There is no health route: a model list of a known shape is the sign of life."""
        await self._listed()

    async def list_models(self) -> list[BackendModel]:
        """What is loaded, as far as it tells; see `Backend.list_models`."""
        listed = await self._listed()
        if isinstance(listed, _BareModels):
            return self.offered(self._model(model.id, None, _CHAT) for model in listed.data)
        if isinstance(listed, _OldModels):
            return self.offered(
                self._model(model.id, model.loaded_context_length, _CHAT)
                for model in listed.data
                if model.type in _CHAT_TYPES and model.state == "loaded"
            )
        instances = list(_chat_instances(listed))
        parallel = max((one.config.parallel or 0 for one in instances), default=0)
        if parallel and self.settings.max_concurrent is None:
            self.max_concurrent = parallel
        operations = await self._operations()
        return self.offered(
            self._model(one.id, one.config.context_length, operations) for one in instances
        )

    async def _listed(self) -> _Models | _OldModels | _BareModels:
        """The best list that this version has."""
        newest = await self._list_at("/api/v1/models", _Models)
        if newest is not None:
            return newest
        older = await self._list_at("/api/v0/models", _OldModels)
        return older if older is not None else await self.fetch("/v1/models", _BareModels)

    async def _list_at(self, path: str, shape: type[_ListT]) -> _ListT | None:
        """None where this version has no such route."""
        try:
            return await self.fetch(path, shape)
        except InvalidResponse:
            return None
        except BadStatus as error:
            if error.status in _NO_SUCH_ROUTE:
                return None
            raise

    async def _operations(self) -> frozenset[Operation]:
        """Asked again until it is there: a server is only ever updated to a newer version."""
        if not self._speaks_messages:
            answer = await self.ask("POST", Operation.MESSAGES.path, json={})
            missing = b"unexpected endpoint" in answer.body.lower()
            self._speaks_messages = not missing and answer.status not in _NO_SUCH_ROUTE
        return _CHAT | {Operation.MESSAGES} if self._speaks_messages else _CHAT

    def _model(
        self, model_id: str, context_window: int | None, operations: frozenset[Operation]
    ) -> BackendModel:
        return BackendModel(
            model_id=model_id,
            context_window=context_window,
            native=self.native,
            operations=operations,
            upstream_id=model_id,
        )


def _chat_instances(listed: _Models) -> Iterator[_Instance]:
    for model in listed.models:
        if model.type in _CHAT_TYPES:
            yield from model.loaded_instances
