"""The adapter for llama.cpp's server, which serves one model or, as a router, several.

`/v1/models` needs no key on many builds, so the key is checked with `/props`, which also reports
the number of slots and the context window of one slot. While a server that serves one model loads
it, its routes return 503. A request without a prompt shows whether a route exists: the server
answers 400 (500 for Messages) if the route exists, 404 if the build does not have it, and 501 if
the server was started without it (observed, and `tools/server/README.md` of llama.cpp).
"""

import re
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import ClassVar, Final
from urllib.parse import quote

import msgspec
from msgspec.structs import replace

from provider_agent.adapters.base import (
    BackendModel,
    BackendSettings,
    BackendTimeouts,
    ModelServerLoad,
    ModelState,
    ServerLoad,
)
from provider_agent.adapters.servers.http_backend import ROUTE_ABSENT, HttpBackend
from provider_agent.adapters.servers.input_kinds import kinds_from_flags
from provider_agent.adapters.servers.probe_cache import ProbeCache
from provider_agent.adapters.servers.prometheus_text import read_metrics
from provider_agent.adapters.servers.server_response import ServerResponse
from provider_agent.adapters.servers.token_rate import TokenRate
from provider_agent.protocol.formats import Operation

_CHAT: Final = frozenset({Operation.CHAT})
_EMBEDDINGS: Final = frozenset({Operation.EMBEDDINGS})
_QUEUED: Final = "llamacpp:requests_deferred"
# The server's own rates are averages since any program last read them; counters are totals.
_PREFILL_TOKENS: Final = "llamacpp:prompt_tokens_total"
_PREFILL_SECONDS: Final = "llamacpp:prompt_seconds_total"
_DECODE_TOKENS: Final = "llamacpp:tokens_predicted_total"
_DECODE_SECONDS: Final = "llamacpp:tokens_predicted_seconds_total"
_METRICS: Final = (_QUEUED, _PREFILL_TOKENS, _PREFILL_SECONDS, _DECODE_TOKENS, _DECODE_SECONDS)
_MODEL_FILE: Final = re.compile(r"([^/\\]+?)(?:-\d{5}-of-\d{5})?\.gguf", re.IGNORECASE)
"""Matches the file name of a model; the group excludes the number of a split file."""


class _Settings(msgspec.Struct):
    n_ctx: int | None = None


class _Modalities(msgspec.Struct):
    vision: bool | None = None
    audio: bool | None = None
    video: bool | None = None


class _TemplateCaps(msgspec.Struct):
    """What the model's chat template can render (`common/jinja/caps.h` of llama.cpp)."""

    supports_tools: bool | None = None
    supports_reasoning_effort: bool | None = None


class _Props(msgspec.Struct):
    settings: _Settings = msgspec.field(
        name="default_generation_settings", default_factory=_Settings
    )
    total_slots: int | None = None
    model_path: str = ""
    build_info: str = ""
    is_sleeping: bool = False
    role: str = ""
    modalities: _Modalities | None = None
    chat_template_caps: _TemplateCaps | None = None


class _Status(msgspec.Struct):
    value: str = ""


class _Meta(msgspec.Struct):
    n_ctx: int | None = None


class _Model(msgspec.Struct):
    id: str
    meta: _Meta | None = None
    status: _Status | None = None


class _ModelDetails(msgspec.Struct):
    """An entry of `models[]`, which complements the entry of the same model in `data[]`."""

    model: str = ""
    capabilities: list[str] = []


class _Models(msgspec.Struct):
    data: list[_Model]
    models: list[_ModelDetails] = []


class _Slot(msgspec.Struct):
    is_processing: bool = False


class _Speed:
    """The measured speeds of one model."""

    def __init__(self) -> None:
        self.prefill = TokenRate()
        self.decode = TokenRate()


class LlamaCppBackend(HttpBackend):
    """One llama.cpp server."""

    kind: ClassVar[str] = "llamacpp"
    default_url: ClassVar[str] = "http://127.0.0.1:8080"
    liveness_path: ClassVar[str | None] = "/health"
    # The server announces keep-alive, and closes the connection right after some streams.
    reuses_connections: ClassVar[bool] = False
    default_max_concurrent: ClassVar[int] = 4
    # While a request waits for a slot, the server sends no byte of the response body; older builds
    # do not even send headers. `stall_s`: each answer to `/slots` counts as progress. The server
    # answers it only between two batches of a prompt, and without a GPU, one batch can take most
    # of a minute.
    default_timeouts: ClassVar[BackendTimeouts] = BackendTimeouts(first_byte_s=600.0, stall_s=60.0)

    def __init__(
        self, settings: BackendSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(settings, clock=clock)
        self._probe_cache = ProbeCache()
        self._load_queries: dict[str, str] = {}
        """An awake model's server id → the query string that selects it; "" without a router."""
        self._asleep: list[str] = []
        self._speeds: dict[str, _Speed] = {}
        self._disabled_routes: set[str] = set()
        self._load_answers = 0

    async def check_health(self) -> None:
        """Check that the model is loaded (or can be, behind a router) and the key is accepted."""
        await self.get("/health")
        await self.get_json("/props", _Props)

    async def list_models(self) -> list[BackendModel]:
        """List the models without loading or waking any; see `Backend.list_models`."""
        props = await self.get_json("/props", _Props)
        models = await self.get_json("/v1/models", _Models)
        self.version = props.build_info
        self._disabled_routes.clear()
        if props.role == "router":
            return self.select_models(await self._router_models(models))
        self._update_max_concurrent(props.total_slots)
        self._load_queries, self._asleep = {}, []
        for model in models.data:
            self._note_model_state(model, props, "")
        return self.select_models(
            [await self._model(model, models, props) for model in models.data]
        )

    def _note_model_state(self, model: _Model, props: _Props, query: str) -> None:
        """Remember for `load` whether the model is asleep."""
        if props.is_sleeping:
            self._asleep.append(model.id)
        else:
            self._load_queries[model.id] = query

    async def load(self) -> ServerLoad:
        """Return the load of each model, and their sum; a sleeping model receives no request.

        `/slots` reports the busy slots, `/metrics` the queue and the speeds; either may be
        disabled.
        """
        models = dict.fromkeys(self._asleep, ModelServerLoad(ModelState.COLD))
        for model_id, query in self._load_queries.items():
            models[model_id] = await self._model_load(model_id, query)
        self._speeds = {name: speed for name, speed in self._speeds.items() if name in models}
        return ServerLoad(
            running=_sum(model.running for model in models.values()),
            waiting=_sum(model.waiting for model in models.values()),
            progress=self._progress(),
            models=self.by_model_id(models),
        )

    def _progress(self) -> str | None:
        """Return a new value for each answered request of `load`.

        The server's loop that generates tokens also answers these requests, so an answer shows that
        it runs. None before the first answer, and while a model sleeps: it answers nothing until
        it is loaded, which must not count as a stall.
        """
        return str(self._load_answers) if self._load_answers and not self._asleep else None

    async def _model_load(self, model_id: str, query: str) -> ModelServerLoad:
        load = ModelServerLoad(ModelState.LOADED)
        slots = await self._get_load("/slots", query)
        if slots is not None:
            busy = sum(slot.is_processing for slot in slots.decode(list[_Slot]))
            load = replace(load, running=busy)
        page = await self._get_load("/metrics", query)
        if page is None:
            return load
        found = {name: sum(values) for name, values in read_metrics(page.body, _METRICS).items()}
        speed = self._speeds.setdefault(model_id, _Speed())
        return replace(
            load,
            waiting=round(found[_QUEUED]) if _QUEUED in found else None,
            prefill_tokens_per_second=speed.prefill.update(
                found.get(_PREFILL_TOKENS), found.get(_PREFILL_SECONDS)
            ),
            decode_tokens_per_second=speed.decode.update(
                found.get(_DECODE_TOKENS), found.get(_DECODE_SECONDS)
            ),
        )

    async def _get_load(self, path: str, query: str) -> ServerResponse | None:
        """`GET` an optional route; None if it was found disabled since the last `list_models`."""
        if path in self._disabled_routes:
            return None
        response = await self.request("GET", path + query)
        if response.status in ROUTE_ABSENT:
            self._disabled_routes.add(path)
            return None
        if response.status != 200:
            raise self.status_error(response)
        self._load_answers += 1
        return response

    async def _router_models(self, models: _Models) -> list[BackendModel]:
        found = []
        slots = []
        self._load_queries, self._asleep = {}, []
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
            self._note_model_state(model, props, query)
        # Each model has slots of its own, but the limit covers the whole backend. It is the number
        # of slots of the model with the most slots: a lower limit would leave some of them idle
        # when all jobs are for that model.
        self._update_max_concurrent(max(slots, default=None))
        return found

    def _update_max_concurrent(self, total_slots: int | None) -> None:
        """Allow one job per slot; more jobs would only wait in the server's unbounded queue."""
        if total_slots:
            self.adopt_capacity(total_slots)

    async def _model(self, model: _Model, listed: _Models, props: _Props) -> BackendModel:
        modalities = props.modalities or _Modalities()
        template = props.chat_template_caps or _TemplateCaps()
        return BackendModel(
            model_id=offered_id(model.id),
            context_window=props.settings.n_ctx or (model.meta.n_ctx if model.meta else None),
            native=self.native,
            operations=await self._operations(model.id, listed, props),
            upstream_id=model.id,
            input_kinds=kinds_from_flags(
                image=modalities.vision, audio=modalities.audio, video=modalities.video
            ),
            # A template without tools ignores those of a request.
            tools=template.supports_tools,
            # A model may reason even if its template has no setting for the effort.
            reasoning=template.supports_reasoning_effort or None,
        )

    def _not_loaded(self, model: _Model, state: str) -> BackendModel:
        return BackendModel(
            model_id=offered_id(model.id),
            context_window=None,
            native=self.native,
            operations=frozenset(),
            upstream_id=model.id,
            withheld=f"not loaded by the router (its state: {state or 'unknown'}); load it first",
        )

    async def _operations(
        self, model_id: str, listed: _Models, props: _Props
    ) -> frozenset[Operation]:
        capabilities = next((m.capabilities for m in listed.models if m.model == model_id), [])
        completes = not capabilities or "completion" in capabilities
        build = f"{props.build_info}\n{props.model_path}\n{model_id}"
        if props.is_sleeping:
            # A probe would wake the model. Every build has the chat route.
            found = self._probe_cache.cached(build) or _CHAT
        else:
            found = await self._probe_cache.get(build, partial(self._probe, model_id))
        return found if completes else found & _EMBEDDINGS

    async def _probe(self, model_id: str) -> frozenset[Operation]:
        return frozenset(
            [operation for operation in Operation if await self._supports(operation, model_id)]
        )

    async def _supports(self, operation: Operation, model_id: str) -> bool:
        """Return whether the server has this route and has not disabled it."""
        response = await self.probe_route(operation, {"model": model_id})
        # "not OAI compatible": embeddings are enabled, but only for llama.cpp's own API.
        return response.status not in ROUTE_ABSENT and b"not OAI compatible" not in response.body


def offered_id(upstream_id: str) -> str:
    """Return the id for jobs: the server's alias.

    Without an alias, it is the model's file name without folder, split number and `.gguf`.
    """
    file = _MODEL_FILE.fullmatch(re.split(r"[/\\]", upstream_id)[-1])
    return file.group(1) if file else upstream_id


def _sum(values: Iterable[int | None]) -> int | None:
    """Return the sum of the known values; None if none is known."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
