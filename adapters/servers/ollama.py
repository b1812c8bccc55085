"""The adapter for Ollama, which loads models on demand and supports both formats since 0.14.

The OpenAI model list has neither context windows nor capabilities, so the adapter uses the native
API. The `model_info` of `/api/show` reports the window that the model was trained with. The
effective window is the one that `/api/ps` reports for a loaded model, or else the `num_ctx` of the
model file. `OLLAMA_CONTEXT_LENGTH` and the default, which depends on video memory, are not visible
through the API. Cloud models run at ollama.com and are never offered. Ollama silently truncates a
prompt over the window (issues 4967 and 17889 of its tracker). The adapter therefore rejects a
prompt if the window is known and a lower bound of the prompt's tokens exceeds it.
"""

import time
from collections.abc import Callable
from typing import ClassVar, Final

import msgspec
from msgspec.structs import replace

from provider_agent.adapters.base import (
    BackendError,
    BackendModel,
    BackendSettings,
    BackendTimeouts,
    BadStatus,
    Job,
    ModelServerLoad,
    ModelState,
    PromptTooLong,
    ServerLoad,
)
from provider_agent.adapters.requests.body import UpstreamRequest
from provider_agent.adapters.requests.prompt_size import least_prompt_tokens
from provider_agent.adapters.servers.http_backend import HttpBackend
from provider_agent.adapters.servers.input_kinds import kinds_from_flags
from provider_agent.adapters.servers.probe_cache import ProbeCache
from provider_agent.protocol.formats import Operation

MAX_SHOW_REQUESTS: Final = 64
"""Limit of `/api/show` requests per `list_models`; the next call describes further models."""

_EMBEDDINGS: Final = frozenset({Operation.EMBEDDINGS})
_SINCE: Final = {
    Operation.CHAT: (0, 1, 24),
    Operation.COMPLETIONS: (0, 3, 0),
    Operation.EMBEDDINGS: (0, 3, 0),
    Operation.RESPONSES: (0, 13, 3),
    Operation.MESSAGES: (0, 14, 0),
}
"""The first version with each route; there is no `count_tokens`."""

_CLOUD: Final = "runs at ollama.com (cloud model), not on this machine"


class _Remote(msgspec.Struct):
    """The fields that `/api/tags` and `/api/show` share."""

    remote_model: str = ""
    remote_host: str = ""
    capabilities: list[str] | None = None

    @property
    def is_remote(self) -> bool:
        return bool(self.remote_model or self.remote_host)


class _Tag(_Remote, kw_only=True):
    name: str
    digest: str = ""

    @property
    def is_cloud(self) -> bool:
        return self.is_remote or self.name.endswith((":cloud", "-cloud"))


class _Tags(msgspec.Struct):
    models: list[_Tag] | None = None


class _Description(_Remote):
    parameters: str = ""

    @property
    def num_ctx(self) -> int | None:
        """The context window that the model file sets; None if it sets none."""
        for line in self.parameters.splitlines():
            words = line.split()
            if len(words) == 2 and words[0] == "num_ctx" and words[1].isdecimal():
                return int(words[1][:12])
        return None


class _Loaded(msgspec.Struct):
    name: str
    context_length: int | None = None


class _Processes(msgspec.Struct):
    models: list[_Loaded] | None = None


class _Version(msgspec.Struct):
    version: str


class OllamaBackend(HttpBackend):
    """One Ollama server."""

    kind: ClassVar[str] = "ollama"
    default_url: ClassVar[str] = "http://127.0.0.1:11434"
    liveness_path: ClassVar[str | None] = "/api/version"
    estimates_prompt: ClassVar[bool] = True
    knows_only_max_tokens: ClassVar[bool] = True
    # A model that does not stop by itself generates until the job's timeout.
    default_max_output_tokens: ClassVar[int | None] = 32_768
    # OLLAMA_NUM_PARALLEL, which the API does not report, is 1 unless the operator sets it.
    default_max_concurrent: ClassVar[int] = 1
    # A response starts after the model has loaded (OLLAMA_LOAD_TIMEOUT: up to five minutes) and
    # the prompt is processed.
    default_timeouts: ClassVar[BackendTimeouts] = BackendTimeouts(first_byte_s=600.0)

    def __init__(
        self, settings: BackendSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(settings, clock=clock)
        self._descriptions: dict[str, _Description] = {}
        self._windows: dict[str, int] = {}
        self._names: list[str] = []
        self._probe_cache = ProbeCache()

    async def check_health(self) -> None:
        """Check that the server reports its version."""
        await self._fetch_version()

    async def list_models(self) -> list[BackendModel]:
        """List the models on the server's disk; see `Backend.list_models`."""
        self.version = await self._fetch_version()
        tags = (await self.get_json("/api/tags", _Tags)).models or []
        self._names = [name for tag in tags for name in self._offered_names(tag.name)]
        await self._describe([tag for tag in tags if not tag.is_cloud])
        loaded = {model.name: model.context_length for model in await self._fetch_loaded()}
        supported = await self._probe_cache.get(self.version, self._probe)
        described = [self._model(tag, loaded, supported) for tag in tags]
        models = self.select_models(
            [
                replace(model, model_id=name, upstream_id=name)
                for model in described
                for name in (
                    [model.model_id] if model.withheld else self._offered_names(model.model_id)
                )
            ]
        )
        self._windows = {m.model_id: m.context_window for m in models if m.context_window}
        return models

    async def load(self) -> ServerLoad:
        """Return which of the listed models are in memory; Ollama reports nothing else."""
        loaded = {
            name for model in await self._fetch_loaded() for name in self._offered_names(model.name)
        }
        return ServerLoad(
            models=self.by_model_id(
                {
                    name: ModelServerLoad(ModelState.LOADED if name in loaded else ModelState.COLD)
                    for name in self._names
                }
            )
        )

    def _offered_names(self, listed: str) -> list[str]:
        """Return the names of a listed model that clients may use.

        The server lists `llama3:latest`, and accepts `llama3` too. If the operator gave one of the
        names an alias, only that name is offered, under its alias.
        """
        names = list(dict.fromkeys((listed, listed.removesuffix(":latest"))))
        return [name for name in names if name in self.settings.aliases.values()] or names

    async def _fetch_loaded(self) -> list[_Loaded]:
        return (await self.get_json("/api/ps", _Processes)).models or []

    def prepare(self, job: Job, operation: Operation) -> UpstreamRequest:
        """Prepare a job's request, and reject a prompt that Ollama would truncate.

        Raises:
            PromptTooLong: a lower bound of the prompt's tokens exceeds the known context window.
            BadRequest: see `HttpBackend.prepare`.
        """
        request = super().prepare(job, operation)
        window = self._windows.get(job.model_id)
        if window is not None:
            needed = least_prompt_tokens(request.body, operation, window)
            if needed > window:
                raise PromptTooLong(needed, window)
        return request

    async def _fetch_version(self) -> str:
        try:
            return (await self.get_json("/api/version", _Version)).version
        except BadStatus as error:
            if error.status != 403:
                raise
            raise BackendError(
                "Ollama rejects the host name in this backend's url (status 403);"
                " use its IP address or localhost"
            ) from error

    async def _describe(self, tags: list[_Tag]) -> None:
        """Call `/api/show` for at most `MAX_SHOW_REQUESTS` models whose name or digest is new."""
        previous, self._descriptions = self._descriptions, {}
        requests = 0
        for tag in tags:
            key = _cache_key(tag)
            if key in previous:
                self._descriptions[key] = previous[key]
            elif requests < MAX_SHOW_REQUESTS:
                requests += 1
                response = await self.request("POST", "/api/show", json={"model": tag.name})
                if response.status == 200:
                    self._descriptions[key] = response.decode(_Description)

    def _model(
        self, tag: _Tag, loaded: dict[str, int | None], supported: frozenset[Operation]
    ) -> BackendModel:
        description = self._descriptions.get(_cache_key(tag))
        window = loaded.get(tag.name) or (description.num_ctx if description else None)
        capabilities = _capabilities(tag, description)
        return BackendModel(
            model_id=tag.name,
            context_window=window,
            native=self.native,
            operations=_operations(capabilities, supported) if description else frozenset(),
            upstream_id=tag.name,
            withheld=_why_withheld(tag, description),
            input_kinds=kinds_from_flags(
                image=_includes(capabilities, "vision"), audio=_includes(capabilities, "audio")
            ),
            tools=_includes(capabilities, "tools"),
            reasoning=_includes(capabilities, "thinking"),
        )

    async def _probe(self) -> frozenset[Operation]:
        """Send `GET` to each `POST` route: 405 (method not allowed) means that the route exists."""
        found = {
            operation
            for operation in Operation
            if (await self.request("GET", operation.path)).status == 405
        }
        if Operation.CHAT in found:
            return frozenset(found)
        # This version returns 404 to a `GET` even if the `POST` route exists, so the version number
        # decides.
        version = _parse_version(self.version)
        return frozenset(operation for operation, since in _SINCE.items() if version >= since)


def _cache_key(tag: _Tag) -> str:
    return f"{tag.name}@{tag.digest}"


def _why_withheld(tag: _Tag, description: _Description | None) -> str:
    if tag.is_cloud or (description and description.is_remote):
        return _CLOUD
    if description is None:
        return "the server has not described it yet; the agent asks again"
    return ""


def _capabilities(tag: _Tag, description: _Description | None) -> list[str] | None:
    """Return the capabilities of a model; None if the version (before 0.6.4) reports none."""
    return tag.capabilities or (description.capabilities if description else None) or None


def _includes(capabilities: list[str] | None, name: str) -> bool | None:
    return None if capabilities is None else name in capabilities


def _operations(
    capabilities: list[str] | None, supported: frozenset[Operation]
) -> frozenset[Operation]:
    """Return the operations of a model; without reported capabilities it is a chat model."""
    capabilities = capabilities or ["completion"]
    found = supported - _EMBEDDINGS if "completion" in capabilities else frozenset()
    return found | (supported & _EMBEDDINGS) if "embedding" in capabilities else found


def _parse_version(version: str) -> tuple[int, ...]:
    """Parse `0.14.0-rc1` as (0, 14, 0); any other text as (), which precedes every version."""
    parts = version.partition("-")[0].lstrip("v").split(".")
    return tuple(int(part) for part in parts) if all(p.isdecimal() for p in parts) else ()
