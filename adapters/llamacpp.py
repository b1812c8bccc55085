"""llama.cpp's server: one model in its slots, or a router over several.

`/v1/models` is open on many builds, so the key is checked with `/props`, which also tells the
context window of one slot and the number of slots. While a model loads, every route answers 503.
`{}` to Messages is a 500 here, so one counted word is what shows the route (observed, and its
`tools/server/README.md`).
"""

import re
import time
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Final
from urllib.parse import quote

import msgspec

from adapters.base import BackendModel, BackendSettings
from adapters.http import HttpBackend
from adapters.remembered import RememberedOperations
from protocol.formats import Operation

_CHAT: Final = frozenset({Operation.CHAT})
_ABSENT: Final = frozenset({404, 501})
_UNDECIDED: Final = frozenset({401, 403, 429, 503})
_FILE: Final = re.compile(r"([^/\\]+?)(?:-\d{5}-of-\d{5})?\.gguf", re.IGNORECASE)
"""The stem of a model file, without the number of its first part."""


class _Settings(msgspec.Struct):
    n_ctx: int | None = None


class _Props(msgspec.Struct):
    settings: _Settings = msgspec.field(
        name="default_generation_settings", default_factory=_Settings
    )
    total_slots: int | None = None
    model_path: str = ""
    build_info: str = ""
    is_sleeping: bool = False
    role: str = ""


class _Status(msgspec.Struct):
    value: str = ""


class _Meta(msgspec.Struct):
    n_ctx: int | None = None


class _Model(msgspec.Struct):
    id: str
    meta: _Meta | None = None
    status: _Status | None = None


class _Described(msgspec.Struct):
    """An entry of `models[]`, beside the one in `data[]` of the same model."""

    model: str = ""
    capabilities: list[str] = []


class _Models(msgspec.Struct):
    data: list[_Model]
    models: list[_Described] = []


class LlamaCppBackend(HttpBackend):
    """See the module's text."""

    kind: ClassVar[str] = "llamacpp"
    default_max_concurrent: ClassVar[int] = 4

    def __init__(
        self, settings: BackendSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(settings, clock=clock)
        self._spoken = RememberedOperations()

    async def check_health(self) -> None:
        """The model is loaded (or may be, behind a router), and the key is accepted."""
        answer = await self.ask("GET", "/health")
        if answer.status != 200:
            raise self._bad_status(answer.status, answer.body, None)
        await self.fetch("/props", _Props)

    async def list_models(self) -> list[BackendModel]:
        """What is loaded; nothing is loaded or woken to find out; see `Backend.list_models`."""
        props = await self.fetch("/props", _Props)
        models = await self.fetch("/v1/models", _Models)
        if props.role != "router":
            self._take_slots(props.total_slots)
            return self.offered([await self._model(model, models, props) for model in models.data])
        found = []
        slots = []
        for model in models.data:
            if model.status is None or model.status.value != "loaded":
                continue
            name = quote(model.id, safe="")
            props = await self.fetch(f"/props?model={name}&autoload=false", _Props)
            slots.append(props.total_slots or 0)
            found.append(await self._model(model, models, props))
        self._take_slots(max(slots, default=None))
        return self.offered(found)

    def _take_slots(self, total_slots: int | None) -> None:
        """More jobs than slots would only wait in the server's endless queue."""
        if total_slots and self.settings.max_concurrent is None:
            self.max_concurrent = total_slots

    async def _model(self, model: _Model, listed: _Models, props: _Props) -> BackendModel:
        return BackendModel(
            model_id=name_of(model.id),
            context_window=props.settings.n_ctx or (model.meta.n_ctx if model.meta else None),
            native=self.native,
            operations=await self._operations(model.id, listed, props),
            upstream_id=model.id,
        )

    async def _operations(
        self, model_id: str, listed: _Models, props: _Props
    ) -> frozenset[Operation]:
        described = next((m.capabilities for m in listed.models if m.model == model_id), [])
        if described and "completion" not in described:
            return frozenset()
        build = f"{props.build_info}\n{props.model_path}\n{model_id}"
        if props.is_sleeping:  # a probe would wake it
            return self._spoken.known(build) or _CHAT
        return await self._spoken.get(build, partial(self._probe, model_id))

    async def _probe(self, model_id: str) -> frozenset[Operation]:
        # A server started for embeddings only answers 501 before it looks at the request.
        if not await self._has_route(Operation.CHAT, {"model": model_id}):
            return frozenset()
        words = [{"role": "user", "content": "hello"}]
        counted = {"model": model_id, "messages": words, "max_tokens": 1}
        if not await self._has_route(Operation.COUNT_TOKENS, counted):
            return _CHAT
        return _CHAT | {Operation.MESSAGES}

    async def _has_route(self, operation: Operation, request: object) -> bool:
        answer = await self.ask("POST", operation.path, json=request)
        if answer.status in _UNDECIDED:
            raise self._bad_status(answer.status, answer.body, None)
        return answer.status not in _ABSENT


def name_of(upstream_id: str) -> str:
    """What jobs call a model: its alias, or the stem of its file when it has none."""
    file = _FILE.fullmatch(re.split(r"[/\\]", upstream_id)[-1])
    return file.group(1) if file else upstream_id
