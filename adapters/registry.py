"""Which kinds of backend there are, and how to make one.

Built-in kinds are imported only when used. Third parties add kinds through the entry-point group
`provider_agent.adapters`: the entry's name is the kind, its object a class that is made with a
`BackendSettings`.
"""

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast

from provider_agent.adapters.base import Backend, BackendSettings

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
    "echo": ("provider_agent.adapters.servers.echo", "EchoBackend"),
}


def known_kinds() -> frozenset[str]:
    """Every kind that `create_backend` can make on this machine."""
    return frozenset(_BUILT_IN) | frozenset(_third_party())


def create_backend(settings: BackendSettings) -> Backend:
    """Make the backend that these settings describe; it connects on first use.

    Raises:
        ValueError: no such kind is installed.
    """
    return _backend_class(settings.kind)(settings)


def is_native(kind: str) -> bool:
    """Whether this kind runs on the operator's own hardware.

    Raises:
        ValueError: no such kind is installed.
    """
    return _backend_class(kind).native


def _third_party() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}


def _backend_class(kind: str) -> type[Backend]:
    if kind in _BUILT_IN:
        module, name = _BUILT_IN[kind]
        return cast("type[Backend]", getattr(import_module(module), name))
    entry = _third_party().get(kind)
    if entry is None:
        raise ValueError(f"no adapter of kind {kind!r} is installed")
    return cast("type[Backend]", entry.load())
