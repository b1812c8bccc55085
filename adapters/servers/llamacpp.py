"""llama.cpp's server: one model in its slots, or a router over several.

`/v1/models` is open on many builds, so the key is checked with `/props`, which also tells the
context window of one slot and the number of slots. While a model loads, every route answers 503.
An empty request shows whether a route is there: 400 or, at Messages, 500 where it is, 404 where the
build does not have it, 501 where it was not started for it (observed, and its
`tools/server/README.md`).
"""

import re
import time
from collections.abc import Callable
from functools import partial
from typing import ClassVar, Final
from urllib.parse import quote

import msgspec

from provider_agent.adapters.base import (
    BackendModel,
    BackendSettings,
    BackendTimeouts,
    RequestPolicy,
    ServerLoad,
)
from provider_agent.adapters.servers.http_backend import HttpBackend, ServerResponse
from provider_agent.adapters.servers.probe_cache import ProbeCache
from provider_agent.adapters.servers.prometheus_text import read_gauges
from provider_agent.protocol.formats import Operation

_CHAT: Final = frozenset({Operation.CHAT})
_EMBEDDINGS: Final = frozenset({Operation.EMBEDDINGS})
_ABSENT: Final = frozenset({404, 405, 501})
_UNDECIDED: Final = frozenset({401, 403, 429, 503})
_DEFERRED: Final = "llamacpp:requests_deferred"
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


class _Slot(msgspec.Struct):
    is_processing: bool = False


class LlamaCppBackend(HttpBackend):
    """The adapter of llama.cpp's server."""

    kind: ClassVar[str] = "llamacpp"
    default_url: ClassVar[str] = "http://127.0.0.1:8080"
    # The slot of another request, and other weights than the advertised ones.
    request_policy: ClassVar[RequestPolicy] = RequestPolicy(
        frozenset({"id_slot", "slot_id", "lora", "n_cache_reuse"})
    )
    default_max_concurrent: ClassVar[int] = 4
    # A request that waits for a slot receives no byte, and in older builds not even headers.
    default_timeouts: ClassVar[BackendTimeouts] = BackendTimeouts(first_byte_s=600.0)

    def __init__(
        self, settings: BackendSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(settings, clock=clock)
        self._probe_cache = ProbeCache()
        self._awake: list[str] = [""]
        """What `load` may ask about: queries that name the loaded models; one empty one without a
        router."""
        self._switched_off: set[str] = set()

    async def check_health(self) -> None:
        """The model is loaded (or may be, behind a router), and the key is accepted."""
        response = await self.request("GET", "/health")
        if response.status != 200:
            raise self.status_error(response)
        await self.get_json("/props", _Props)

    async def list_models(self) -> list[BackendModel]:
        """What there is; nothing is loaded or woken to find out; see `Backend.list_models`."""
        props = await self.get_json("/props", _Props)
        models = await self.get_json("/v1/models", _Models)
        self.version = props.build_info
        self._switched_off.clear()
        if props.role == "router":
            return self.select_models(await self._behind_router(models))
        self._take_slots(props.total_slots)
        self._awake = [] if props.is_sleeping else [""]
        return self.select_models(
            [await self._model(model, models, props) for model in models.data]
        )

    async def load(self) -> ServerLoad | None:
        """Busy slots, and the queue where `/metrics` is on; None where `/slots` is off."""
        running: int | None = None
        waiting: int | None = None
        for query in self._awake:
            slots = await self._ask_load("/slots", query)
            if slots is not None:
                busy = sum(slot.is_processing for slot in slots.decode(list[_Slot]))
                running = (running or 0) + busy
            metrics = await self._ask_load("/metrics", query)
            if metrics is not None:
                deferred = read_gauges(metrics.body, (_DEFERRED,)).get(_DEFERRED, [])
                waiting = (waiting or 0) + round(sum(deferred))
        return None if running is None and waiting is None else ServerLoad(running, waiting)

    async def _ask_load(self, path: str, query: str) -> ServerResponse | None:
        """None where this route is switched off, which is asked once per `list_models`."""
        if path in self._switched_off:
            return None
        response = await self.request("GET", path + query)
        if response.status in _ABSENT:
            self._switched_off.add(path)
            return None
        if response.status != 200:
            raise self.status_error(response)
        return response

    async def _behind_router(self, models: _Models) -> list[BackendModel]:
        found = []
        slots = []
        self._awake = []
        for model in models.data:
            state = model.status.value if model.status else ""
            if state != "loaded":
                found.append(self._not_loaded(model, state))
                continue
            query = f"?model={quote(model.id, safe='')}&autoload=false"
            props = await self.get_json(f"/props{query}", _Props)
            self.version = self.version or props.build_info
            slots.append(props.total_slots or 0)
            found.append(await self._model(model, models, props))
            if not props.is_sleeping:
                self._awake.append(query)
        self._take_slots(max(slots, default=None))
        return found

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

    def _not_loaded(self, model: _Model, state: str) -> BackendModel:
        return BackendModel(
            model_id=name_of(model.id),
            context_window=None,
            native=self.native,
            operations=frozenset(),
            upstream_id=model.id,
            withheld=f"not loaded by the router (it says: {state or 'nothing'}); load it first",
        )

    async def _operations(
        self, model_id: str, listed: _Models, props: _Props
    ) -> frozenset[Operation]:
        described = next((m.capabilities for m in listed.models if m.model == model_id), [])
        completes = not described or "completion" in described
        build = f"{props.build_info}\n{props.model_path}\n{model_id}"
        if props.is_sleeping:  # a probe would wake it
            found = self._probe_cache.cached(build) or _CHAT
        else:
            found = await self._probe_cache.get(build, partial(self._probe, model_id))
        return found if completes else found & _EMBEDDINGS

    async def _probe(self, model_id: str) -> frozenset[Operation]:
        return frozenset([one for one in Operation if await self._answers(one, model_id)])

    async def _answers(self, operation: Operation, model_id: str) -> bool:
        """Whether this build has the route, and was started for it."""
        response = await self.request("POST", operation.path, json={"model": model_id})
        if response.status in _UNDECIDED:
            raise self.status_error(response)
        # The second: embeddings are on, but for another API than this one.
        return response.status not in _ABSENT and b"not OAI compatible" not in response.body


def name_of(upstream_id: str) -> str:
    """What jobs call a model: its alias, or the stem of its file when it has none."""
    file = _FILE.fullmatch(re.split(r"[/\\]", upstream_id)[-1])
    return file.group(1) if file else upstream_id
