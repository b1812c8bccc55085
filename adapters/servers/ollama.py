"""Ollama: every model on disk, loaded on demand, in both formats since 0.14.

The OpenAI list has neither windows nor kinds, so the native API is asked. The window in the
`model_info` of `/api/show` is the trained one and misleads: what counts is what `/api/ps` says was
allocated, or an explicit `num_ctx`. `OLLAMA_CONTEXT_LENGTH` and the default by video memory cannot
be seen from outside. Cloud stubs are served by somebody else and never offered. A prompt over the
window is cut without a word (issues 4967 and 17889 of its tracker), so it is refused here.
"""

import time
from collections.abc import Callable
from typing import ClassVar, Final

import msgspec

from provider_agent.adapters.base import (
    BackendError,
    BackendModel,
    BackendSettings,
    BackendTimeouts,
    BadStatus,
    Job,
    PromptTooLong,
    RequestPolicy,
)
from provider_agent.adapters.requests.body import UpstreamRequest
from provider_agent.adapters.requests.policy import WEB_SEARCH_TOOLS
from provider_agent.adapters.requests.prompt_size import least_prompt_tokens
from provider_agent.adapters.servers.http_backend import HttpBackend
from provider_agent.adapters.servers.probe_cache import ProbeCache
from provider_agent.protocol.formats import Operation

MAX_SHOWN: Final = 64
"""Models that one `list_models` asks about; a longer list is complete after the next ones."""

_EMBEDDINGS: Final = frozenset({Operation.EMBEDDINGS})
_SINCE: Final = {
    Operation.CHAT: (0, 1, 24),
    Operation.COMPLETIONS: (0, 3, 0),
    Operation.EMBEDDINGS: (0, 3, 0),
    Operation.RESPONSES: (0, 13, 3),
    Operation.MESSAGES: (0, 14, 0),
}
"""The first versions with each route, for those that do not show it; there is no `count_tokens`."""

_CLOUD: Final = "ollama.com runs it (cloud model); it is not on this machine"


class _Remote(msgspec.Struct):
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


class _Shown(_Remote):
    parameters: str = ""

    @property
    def num_ctx(self) -> int | None:
        """The window that the model's own file asks for."""
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
    """The adapter of Ollama."""

    kind: ClassVar[str] = "ollama"
    default_url: ClassVar[str] = "http://127.0.0.1:11434"
    # How long a model stays in memory; the local daemon searches the web with the operator's
    # account.
    request_policy: ClassVar[RequestPolicy] = RequestPolicy(
        frozenset({"keep_alive"}), WEB_SEARCH_TOOLS
    )
    # OLLAMA_NUM_PARALLEL, which the API does not report, is 1 unless the operator sets it.
    default_max_concurrent: ClassVar[int] = 1
    # Loading a model (up to OLLAMA_LOAD_TIMEOUT, five minutes) and the prompt come before headers.
    default_timeouts: ClassVar[BackendTimeouts] = BackendTimeouts(first_byte_s=600.0)

    def __init__(
        self, settings: BackendSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(settings, clock=clock)
        self._shown: dict[str, _Shown] = {}
        self._windows: dict[str, int] = {}
        self._probe_cache = ProbeCache()

    async def check_health(self) -> None:
        """It answers with its version."""
        await self._ask_version()

    async def list_models(self) -> list[BackendModel]:
        """What is on its disk; see `Backend.list_models`."""
        self.version = await self._ask_version()
        tags = (await self.get_json("/api/tags", _Tags)).models or []
        await self._show([tag for tag in tags if not tag.is_cloud])
        loaded = {
            model.name: model.context_length
            for model in (await self.get_json("/api/ps", _Processes)).models or []
        }
        supported = await self._probe_cache.get(self.version, self._probe)
        models = self.select_models([self._model(tag, loaded, supported) for tag in tags])
        self._windows = {m.model_id: m.context_window for m in models if m.context_window}
        return models

    def prepare(self, job: Job, operation: Operation) -> UpstreamRequest:
        """As usual, but a prompt that cannot fit is refused: it would be cut silently.

        Raises:
            PromptTooLong: it needs more tokens than the window has.
            BadRequest: see `HttpBackend.prepare`.
        """
        window = self._windows.get(job.model_id)
        if window is not None:
            needed = least_prompt_tokens(job.request, operation, window)
            if needed > window:
                raise PromptTooLong(needed, window)
        return super().prepare(job, operation)

    async def _ask_version(self) -> str:
        try:
            return (await self.get_json("/api/version", _Version)).version
        except BadStatus as error:
            if error.status != 403:
                raise
            raise BackendError(
                "Ollama refuses the host name in this backend's url (status 403);"
                " write its IP address or localhost"
            ) from error

    async def _show(self, tags: list[_Tag]) -> None:
        """Ask `/api/show` about each model, once per digest."""
        before, self._shown = self._shown, {}
        asked = 0
        for tag in tags:
            key = _key(tag)
            if key in before:
                self._shown[key] = before[key]
            elif asked < MAX_SHOWN:
                asked += 1
                response = await self.request("POST", "/api/show", json={"model": tag.name})
                if response.status == 200:
                    self._shown[key] = response.decode(_Shown)

    def _model(
        self, tag: _Tag, loaded: dict[str, int | None], supported: frozenset[Operation]
    ) -> BackendModel:
        shown = self._shown.get(_key(tag))
        window = loaded.get(tag.name) or (shown.num_ctx if shown else None)
        return BackendModel(
            model_id=tag.name,
            context_window=window,
            native=self.native,
            operations=_operations(tag, shown, supported) if shown else frozenset(),
            upstream_id=tag.name,
            withheld=_why_withheld(tag, shown),
        )

    async def _probe(self) -> frozenset[Operation]:
        """Method not allowed: the route is there, for `POST`. Nothing is generated."""
        answers = {one: (await self.request("GET", one.path)).status == 405 for one in Operation}
        if answers[Operation.CHAT]:
            return frozenset(one for one, there in answers.items() if there)
        # A version that hides its routes from other methods: then its number tells.
        numbers = _numbers(self.version)
        return frozenset(one for one, since in _SINCE.items() if numbers >= since)


def _key(tag: _Tag) -> str:
    return f"{tag.name}@{tag.digest}"


def _why_withheld(tag: _Tag, shown: _Shown | None) -> str:
    if tag.is_cloud or (shown and shown.is_remote):
        return _CLOUD
    if shown is None:
        return "the server has not described it yet, or cannot; it is asked again"
    return ""


def _operations(tag: _Tag, shown: _Shown, supported: frozenset[Operation]) -> frozenset[Operation]:
    """Versions before 0.6 do not tell what a model can do; then it is taken for one that chats."""
    capabilities = tag.capabilities or shown.capabilities or ["completion"]
    found = supported - _EMBEDDINGS if "completion" in capabilities else frozenset()
    return found | (supported & _EMBEDDINGS) if "embedding" in capabilities else found


def _numbers(version: str) -> tuple[int, ...]:
    """`0.14.0-rc1` is (0, 14, 0); a build without a number is older than every other."""
    parts = version.partition("-")[0].lstrip("v").split(".")
    return tuple(int(part) for part in parts) if all(p.isdecimal() for p in parts) else ()
