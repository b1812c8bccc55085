"""Imports between our packages go one way only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SHARED = frozenset({"advised_error", "event_log", "http_server_log", "log_writer"})
"""Modules of `provider_agent` itself that every subpackage except `protocol` may import."""

FOLDERS = {"websocket": "src/provider_agent/websocket"}
"""The folder of each package that is not at the top of the repository."""

ALLOWED: dict[str, frozenset[str]] = {
    "protocol": frozenset({"protocol"}),
    "adapters": frozenset({"adapters", "protocol"}) | SHARED,
    "websocket": frozenset({"websocket", "protocol"}) | SHARED,
    "agent": frozenset({"agent", "adapters", "protocol", "websocket"}) | SHARED,
    "agent/cli": frozenset(
        {"agent", "adapters", "protocol", "websocket", "coordinator", "conformance"}
    )
    | SHARED,
    "coordinator": frozenset({"coordinator", "protocol", "websocket"}) | SHARED,
    "conformance": frozenset({"conformance", "protocol"}) | SHARED,
}
PACKAGES = ("protocol", "adapters", "websocket", "agent", "coordinator", "conformance")
OUTSIDE = frozenset({*PACKAGES, "tests", "bench", "documentation", "src"})
"""Names that are not installed as packages: `import agent` works only in the repository."""


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module="provider_agent", names=names, level=0):
                yield from (f"provider_agent.{alias.name}" for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module
            case ast.ImportFrom(level=level, module=module) if level > 1:
                yield "." * level + (module or "")
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield module


def forbidden_imports(layer: str, source: str) -> list[str]:
    """The imports in `source` that a module of `layer` may not have.

    A relative import that leaves the module's own folder counts too: write it as an absolute one.
    """
    found = []
    for module in _imported(ast.parse(source)):
        top, _, rest = module.partition(".")
        is_ours = top == "provider_agent"
        if not top or top in OUTSIDE or (is_ours and rest.split(".")[0] not in ALLOWED[layer]):
            found.append(module)
    return found


def _layer_of(package: str, path: Path) -> str:
    subpackage = f"{package}/{path.relative_to(_folder(package)).parts[0]}"
    return subpackage if subpackage in ALLOWED else package


def _folder(package: str) -> Path:
    return ROOT / FOLDERS.get(package, package)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    violations = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in _folder(package).rglob("*.py")
        for module in forbidden_imports(_layer_of(package, path), path.read_text(encoding="utf-8"))
    }

    assert violations == set()


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("protocol", "import provider_agent.adapters"),
        ("protocol", "import os, provider_agent.agent.config"),
        ("protocol", "from provider_agent.coordinator.app import run"),
        ("protocol", "from provider_agent.event_log import EventLogger"),
        ("protocol", "from provider_agent.websocket.message_size import MessageSize"),
        ("adapters", "from provider_agent.websocket.message_size import MessageSize"),
        ("websocket", "from provider_agent.agent.link.dial import dial"),
        ("adapters", "from provider_agent.agent import config as c"),
        ("adapters", "from provider_agent import agent"),
        ("adapters", "def late():\n    import provider_agent.agent.jobs.running"),
        ("adapters", "if TYPE_CHECKING:\n    from provider_agent.coordinator import app"),
        ("agent", "import provider_agent.coordinator"),
        ("agent", "importlib.import_module('provider_agent.coordinator.app')"),
        ("agent", "from tests.kit import fakes"),
        ("agent", "import agent"),
        ("agent", "import protocol.frames"),
        ("agent", "from adapters.base import Backend"),
        ("coordinator", "from provider_agent.adapters.servers.echo import EchoBackend"),
        ("coordinator", "from .. import agent"),
        ("agent", "import provider_agent.conformance.runner"),
        ("coordinator", "import provider_agent.conformance.runner"),
        ("conformance", "from provider_agent.adapters.base import Backend"),
        ("conformance", "from provider_agent.agent.link.dial import dial"),
        ("conformance", "from provider_agent.coordinator.server import Coordinator"),
        ("agent/cli", "import bench.relay"),
        ("agent/cli", "from src.provider_agent import agent"),
        ("agent/cli", "from coordinator.command import command"),
    ],
)
def test_the_checker_finds_a_forbidden_import(layer: str, source: str) -> None:
    assert forbidden_imports(layer, source)


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("protocol", "from provider_agent.protocol.frames import Job"),
        ("protocol", "import msgspec\nimport agentless"),
        ("protocol", "from . import frames"),
        ("adapters", "from provider_agent.protocol import frames"),
        ("agent", "import provider_agent.adapters.base, provider_agent.protocol.limits"),
        ("agent", "from provider_agent.event_log import EventLogger"),
        ("agent/cli", "from provider_agent.coordinator.app import run"),
        ("agent/cli", "from provider_agent.conformance.runner import run"),
        ("coordinator", "from provider_agent.protocol.codec import VERSION_1"),
    ],
)
def test_the_checker_accepts_an_allowed_import(layer: str, source: str) -> None:
    assert forbidden_imports(layer, source) == []


SUBPACKAGES: dict[str, frozenset[str]] = {
    "agent/config": frozenset({"config"}),
    "agent/identity": frozenset({"identity"}),
    "agent/backends": frozenset({"backends", "config"}),
    "agent/jobs": frozenset({"jobs", "backends"}),
    "agent/link": frozenset({"link", "jobs", "identity", "config"}),
    "agent/telemetry": frozenset({"telemetry", "link", "jobs", "backends", "config"}),
    "agent/reload": frozenset({"reload", "telemetry", "backends", "config"}),
    "adapters/http": frozenset({"http"}),
    "adapters/requests": frozenset({"requests"}),
    "adapters/responses": frozenset({"responses", "requests", "http"}),
    "adapters/servers": frozenset({"servers", "responses", "requests", "http"}),
    "coordinator/connections": frozenset({"connections"}),
    "coordinator/sessions": frozenset({"sessions"}),
    "coordinator/agents": frozenset({"agents", "connections", "sessions"}),
    "coordinator/cluster": frozenset({"cluster", "agents", "connections", "sessions"}),
    "coordinator/http": frozenset({"http", "agents", "connections", "sessions"}),
}
"""For each subpackage, the subpackages of the same package that it may import."""

USEPOD_IMPORTERS = frozenset(
    {"protocol/usepod", "agent/link", "coordinator/agents", "conformance/."}
)
"""The folders whose modules import the dialect of the marketplace. All others, above all jobs,
routing and adapters, do not know which dialect is spoken."""


def test_only_the_links_know_the_dialect() -> None:
    importers = {
        f"{package}/{path.parent.relative_to(_folder(package)).as_posix()}"
        for package in PACKAGES
        for path in _folder(package).rglob("*.py")
        for module in _imported(ast.parse(path.read_text(encoding="utf-8")))
        if module.startswith("provider_agent.protocol.usepod")
    }
    assert importers == USEPOD_IMPORTERS


HTTP_IMPORTS = frozenset({"errors", "http"})
"""What `adapters/http` imports of `adapters`: no contract, settings or jobs."""

TOP_MODULES = frozenset({"service", "cli", "server", "command"})
"""The modules that assemble a package: the subpackages in `SUBPACKAGES` do not import them."""


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_a_subpackage_imports_only_those_below_it(subpackage: str) -> None:
    package, _, _ = subpackage.partition("/")
    restricted = {Path(name).name for name in SUBPACKAGES if name.startswith(f"{package}/")}
    imported = {
        module.split(".")[2]
        for path in (ROOT / subpackage).rglob("*.py")
        for module in _imported(ast.parse(path.read_text(encoding="utf-8")))
        if module.startswith(f"provider_agent.{package}.")
    }
    assert (ROOT / subpackage).is_dir()
    assert imported & (restricted | TOP_MODULES) <= SUBPACKAGES[subpackage]


def test_http_clients_know_nothing_of_jobs() -> None:
    imported = {
        module.split(".")[2]
        for path in (ROOT / "adapters/http").rglob("*.py")
        for module in _imported(ast.parse(path.read_text(encoding="utf-8")))
        if module.startswith("provider_agent.adapters.")
    }
    assert imported == HTTP_IMPORTS
