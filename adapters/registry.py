"""The kinds of backend, and their adapters.

An adapter is imported only when its kind is used. Other packages add kinds through the entry-point
group `provider_agent.adapters`: the entry's name is the kind, its object a subclass of `Backend`.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast

from provider_agent.adapters.base import Backend, BackendSettings
from provider_agent.advised_error import AdvisedError

ENTRY_POINT_GROUP: Final = "provider_agent.adapters"

_BUILT_IN: Final = {
    "vllm": ("provider_agent.adapters.servers.vllm", "VllmBackend"),
    "llamacpp": ("provider_agent.adapters.servers.llamacpp", "LlamaCppBackend"),
    "lmstudio": ("provider_agent.adapters.servers.lmstudio", "LmStudioBackend"),
    "ollama": ("provider_agent.adapters.servers.ollama", "OllamaBackend"),
    "openrouter": ("provider_agent.adapters.servers.openrouter", "OpenRouterBackend"),
    "venice": ("provider_agent.adapters.servers.venice", "VeniceBackend"),
    "openai_compatible": (
        "provider_agent.adapters.servers.openai_compatible",
        "OpenAICompatibleBackend",
    ),
    "openai_passthrough": (
        "provider_agent.adapters.servers.openai_compatible",
        "OpenAIPassthroughBackend",
    ),
    "echo": ("provider_agent.adapters.servers.echo", "EchoBackend"),
}

_UPDATE_ADVICE: Final = "update its package"

BUILT_IN_KINDS: Final = frozenset(_BUILT_IN)


class AdapterError(AdvisedError, ValueError):
    """A kind of backend has no usable adapter."""


class KnownKinds(AbstractSet[str]):
    """All installed kinds.

    The search for kinds of other packages reads the metadata of everything that is installed, so it
    is made only for a kind that is not built in.
    """

    def __contains__(self, kind: object) -> bool:
        return kind in _BUILT_IN or kind in _third_party()

    def __iter__(self) -> Iterator[str]:
        return iter(BUILT_IN_KINDS | _third_party().keys())

    def __len__(self) -> int:
        return len(BUILT_IN_KINDS | _third_party().keys())


def create_backend(settings: BackendSettings) -> Backend:
    """Create a backend from its settings. It connects on first use.

    Raises:
        AdapterError: `backend_class` failed, the adapter cannot be instantiated, or its `__init__`
            does not call that of `Backend`.
    """
    adapter = backend_class(settings.kind)
    problem = f"the adapter of kind {settings.kind!r} cannot be created"
    try:
        backend = adapter(settings)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit
        raise AdapterError(f"{problem}: {_describe(error)}", _UPDATE_ADVICE) from error
    if not hasattr(backend, "settings"):
        raise AdapterError(f"{problem}: it does not call Backend.__init__", _UPDATE_ADVICE)
    return backend


def backend_class(kind: str) -> type[Backend]:
    """Return the adapter class of a kind, importing it on first use.

    Raises:
        AdapterError: no such kind is installed, or the object of its entry point cannot be imported
            or is not a subclass of `Backend`.
    """
    if kind in _BUILT_IN:
        module, name = _BUILT_IN[kind]
        return cast("type[Backend]", getattr(import_module(module), name))
    entry = _third_party().get(kind)
    if entry is None:
        raise AdapterError(f"no adapter of kind {kind!r} is installed")
    try:
        adapter = entry.load()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit: a module may call `sys.exit()`
        raise AdapterError(
            f"the adapter of kind {kind!r} ({entry.value}) cannot be imported: {_describe(error)}",
            "reinstall its package",
        ) from error
    if not (isinstance(adapter, type) and issubclass(adapter, Backend)):
        raise AdapterError(f"{entry.value} is not a subclass of Backend", _UPDATE_ADVICE)
    return adapter


def _describe(error: BaseException) -> str:
    """Return the exception's type and message in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _third_party() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
