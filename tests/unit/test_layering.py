"""Imports between our packages go one way only."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ALLOWED: dict[str, frozenset[str]] = {
    "protocol": frozenset({"protocol"}),
    "adapters": frozenset({"adapters", "protocol"}),
    "agent": frozenset({"agent", "adapters", "protocol"}),
    "agent/cli": frozenset({"agent", "adapters", "protocol", "coordinator"}),
    "coordinator": frozenset({"coordinator", "protocol"}),
}
OURS = frozenset({"protocol", "adapters", "agent", "coordinator", "tests", "bench"})


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
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

    A relative import over the module's own folder counts too: written out, it could be judged.
    """
    found = []
    for module in _imported(ast.parse(source)):
        top = module.partition(".")[0]
        if not top or (top in OURS and top not in ALLOWED[layer]):
            found.append(module)
    return found


def _layer_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return "agent/cli" if parts[:2] == ("agent", "cli") else parts[0]


@pytest.mark.parametrize("package", ["protocol", "adapters", "agent", "coordinator"])
def test_a_package_imports_only_what_lies_below_it(package: str) -> None:
    violations = {
        f"{path.relative_to(ROOT)}: {module}"
        for path in (ROOT / package).rglob("*.py")
        for module in forbidden_imports(_layer_of(path), path.read_text(encoding="utf-8"))
    }

    assert violations == set()


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("protocol", "import adapters"),
        ("protocol", "import os, agent.config"),
        ("protocol", "from coordinator.app import run"),
        ("adapters", "from agent import config as c"),
        ("adapters", "def late():\n    import agent.jobs.running"),
        ("adapters", "if TYPE_CHECKING:\n    from coordinator import app"),
        ("agent", "import coordinator"),
        ("agent", "importlib.import_module('coordinator.app')"),
        ("agent", "from tests.kit import fakes"),
        ("coordinator", "from adapters.echo import Echo"),
        ("coordinator", "from .. import agent"),
        ("agent/cli", "import bench.relay"),
    ],
)
def test_the_checker_notices(layer: str, source: str) -> None:
    assert forbidden_imports(layer, source)


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("protocol", "from protocol.frames import Job"),
        ("protocol", "import msgspec\nimport agentless"),
        ("protocol", "from . import frames"),
        ("adapters", "from protocol import frames"),
        ("agent", "import adapters.base, protocol.limits"),
        ("agent/cli", "from coordinator.app import run"),
        ("coordinator", "from protocol.codec import VERSION_1"),
    ],
)
def test_the_checker_lets_pass(layer: str, source: str) -> None:
    assert forbidden_imports(layer, source) == []


ROOMS: dict[str, frozenset[str]] = {
    "config": frozenset({"config"}),
    "telemetry": frozenset({"telemetry", "config"}),
    "backends": frozenset({"backends", "config"}),
    "jobs": frozenset({"jobs", "backends"}),
    "link": frozenset({"link", "jobs", "config", "telemetry"}),
}
"""The rooms of the agent, and which of each other they may know."""


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_the_agent_knows_only_those_below_it(room: str) -> None:
    known = {
        module.split(".")[1]
        for path in (ROOT / "agent" / room).rglob("*.py")
        for module in _imported(ast.parse(path.read_text(encoding="utf-8")))
        if module.startswith("agent.")
    }
    assert room in known
    assert known & ROOMS.keys() <= ROOMS[room]
    assert not known & {"service", "reports", "reload", "cli", "demo"}
