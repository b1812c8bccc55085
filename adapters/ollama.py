"""Ollama: every model on disk, loaded on demand, in both formats since 0.14.

The OpenAI list has neither windows nor kinds, so the native API is asked. The window in the
`model_info` of `/api/show` is the trained one and misleads: what counts is what `/api/ps` says was
allocated, or an explicit `num_ctx`. `OLLAMA_CONTEXT_LENGTH` and the default by video memory cannot
be seen from outside. Cloud stubs are served by somebody else and never offered.
"""

import time
from collections.abc import Callable
from typing import ClassVar, Final

import msgspec

from adapters.base import BackendError, BackendModel, BackendSettings, BadStatus
from adapters.http import HttpBackend
from adapters.remembered import RememberedOperations
from protocol.formats import Operation

MAX_SHOWN: Final = 64
"""Models that one `list_models` asks about; a longer list is complete after the next ones."""

_CHAT: Final = frozenset({Operation.CHAT})


class _Remote(msgspec.Struct):
    remote_model: str = ""
    remote_host: str = ""
    capabilities: list[str] | None = None


class _Tag(_Remote, kw_only=True):
    name: str
    digest: str = ""


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
    """See the module's text."""

    kind: ClassVar[str] = "ollama"
    default_max_concurrent: ClassVar[int] = 1

    def __init__(
        self, settings: BackendSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(settings, clock=clock)
        self._shown: dict[str, _Shown] = {}
        self._spoken = RememberedOperations()

    async def check_health(self) -> None:
        """It answers with its version."""
        await self._version()

    async def list_models(self) -> list[BackendModel]:
        """Local models that complete text; see `Backend.list_models`."""
        version = await self._version()
        listed = (await self.fetch("/api/tags", _Tags)).models or []
        tags = [tag for tag in listed if not _is_cloud(tag)]
        shown = await self._show(tags)
        loaded = {
            model.name: model.context_length
            for model in (await self.fetch("/api/ps", _Processes)).models or []
        }
        operations = await self._spoken.get(version, self._probe)
        return self.offered(
            BackendModel(
                model_id=tag.name,
                context_window=loaded.get(tag.name) or shown[tag.name].num_ctx,
                native=self.native,
                operations=operations,
                upstream_id=tag.name,
            )
            for tag in tags
            if tag.name in shown and _completes(tag, shown[tag.name])
        )

    async def _version(self) -> str:
        try:
            return (await self.fetch("/api/version", _Version)).version
        except BadStatus as error:
            if error.status != 403:
                raise
            raise BackendError(
                "Ollama refuses the host name in this backend's url (status 403);"
                " write its IP address or localhost"
            ) from error

    async def _show(self, tags: list[_Tag]) -> dict[str, _Shown]:
        """What `/api/show` says of each model, by name; remembered as long as its digest stays."""
        before, self._shown = self._shown, {}
        found = {}
        asked = 0
        for tag in tags:
            key = f"{tag.name}@{tag.digest}"
            shown = before.get(key)
            if shown is None and asked < MAX_SHOWN:
                asked += 1
                answer = await self.ask("POST", "/api/show", json={"model": tag.name})
                # A model may have been removed meanwhile, or be damaged: then it is not offered.
                shown = answer.decode(_Shown) if answer.status == 200 else None
            if shown is not None:
                self._shown[key] = shown
                if not _is_remote(shown):
                    found[tag.name] = shown
        return found

    async def _probe(self) -> frozenset[Operation]:
        """Method not allowed: the route is there, for `POST`. Nothing is generated."""
        answer = await self.ask("GET", Operation.MESSAGES.path)
        return _CHAT | {Operation.MESSAGES} if answer.status == 405 else _CHAT


def _is_remote(described: _Remote) -> bool:
    return bool(described.remote_model or described.remote_host)


def _is_cloud(tag: _Tag) -> bool:
    return _is_remote(tag) or tag.name.endswith((":cloud", "-cloud"))


def _completes(tag: _Tag, shown: _Shown) -> bool:
    """Versions before 0.6 do not tell; then it is offered."""
    capabilities = tag.capabilities or shown.capabilities
    return not capabilities or "completion" in capabilities
