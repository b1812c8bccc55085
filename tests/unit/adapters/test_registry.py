import sys
from importlib.metadata import EntryPoint, EntryPoints
from types import ModuleType

import pytest

from provider_agent.adapters import registry
from provider_agent.adapters.base import Backend, BackendSettings
from provider_agent.adapters.registry import (
    ENTRY_POINT_GROUP,
    create_backend,
    is_native,
    known_kinds,
)
from provider_agent.adapters.servers.echo import EchoBackend

BUILT_IN = {
    "vllm": True,
    "llamacpp": True,
    "lmstudio": True,
    "ollama": True,
    "openrouter": False,
    "venice": False,
    "openai_compatible": True,
    "echo": True,
}


class ThirdParty(EchoBackend):
    kind = "acme"


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("acme_adapter")
    module.__dict__["AcmeBackend"] = ThirdParty
    monkeypatch.setitem(sys.modules, "acme_adapter", module)
    entry = EntryPoint("acme", "acme_adapter:AcmeBackend", ENTRY_POINT_GROUP)

    def entry_points(*, group: str) -> EntryPoints:
        return EntryPoints([entry]).select(group=group)

    monkeypatch.setattr(registry, "entry_points", entry_points)


@pytest.mark.parametrize(("kind", "native"), BUILT_IN.items())
def test_every_built_in_kind_can_be_made(kind: str, native: bool) -> None:
    backend = create_backend(BackendSettings(kind=kind, url="http://127.0.0.1:1"))

    assert isinstance(backend, Backend)
    assert backend.kind == kind
    assert is_native(kind) is native
    assert backend.native is native
    local = kind if kind == "echo" or not native else f"{kind}:http://127.0.0.1:1"
    assert backend.id in (local, f"{kind}:http://127.0.0.1:1")


def test_the_built_in_kinds_are_known() -> None:
    assert known_kinds() >= set(BUILT_IN)


@pytest.mark.usefixtures("third_party")
def test_a_third_party_adds_a_kind_by_an_entry_point() -> None:
    backend = create_backend(BackendSettings(kind="acme", url="http://acme"))

    assert isinstance(backend, ThirdParty)
    assert "acme" in known_kinds()
    assert backend.id == "acme:http://acme"


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="'no-such-kind'"):
        create_backend(BackendSettings(kind="no-such-kind"))
    with pytest.raises(ValueError, match="'no-such-kind'"):
        is_native("no-such-kind")
