"""The messages that tell an operator about a problem, collected from the code.

A message is the text of an error for the operator (`AdvisedError`, `click.ClickException`) or of a
failed connection. A value in it is `…`. What a message says about its place (file, key, address)
and its advice are left out.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]

FOLDERS: Final = (
    *("agent/config", "agent/identity", "agent/link", "agent/telemetry", "agent/cli"),
    *("agent/backends", "agent/reload", "adapters/http", "adapters/servers"),
    *("adapters/registry.py", "adapters/responses/http_errors.py", "coordinator"),
)

INTERNAL: Final = frozenset({"this backend was closed"})
"""Messages that operators do not see."""

ELSEWHERE: Final = (
    *("agent/cli/demo/", "agent/cli/completion.py", "agent/telemetry/traces/exporter.py"),
    "coordinator/agents/",
    "agent/cli/upgrade.py",
)
"""Modules whose messages concern only their own command, or only the log."""

ARGUMENT: Final = {
    "AdvisedError": 0,
    "BackendError": 0,
    "Unreachable": 0,
    "Transport": 0,
    "InvalidResponse": 0,
    "_unreachable": 0,
    "ConfigError": 0,
    "InvalidValue": 0,
    "IdentityError": 0,
    "ServiceError": 0,
    "SettingsError": 0,
    "SetupError": 0,
    "StatusServerError": 0,
    "LedgerError": 0,
    "TraceSettingsError": 0,
    "AdapterError": 0,
    "NoAgent": 0,
    "ClickException": 0,
    "PairingError": 0,
    "PairingFailed": 0,
    "malformed": 0,
    "Disconnect": 1,
    "bad_value": 2,
}
"""Which argument of an error, or of the function that makes one, is the message."""

EXPLAINING: Final = frozenset({"missing_key"})
"""Functions that return messages, besides those with `explain` in their name."""

_MIN_LETTERS: Final = 6
"""A text with fewer letters says nothing by itself: `…: …` is made of other messages."""

TARGETS: Final = frozenset({"problem", "detail", "reason"})
"""Names of variables whose value becomes a message."""


def messages(root: Path = ROOT) -> dict[str, str]:
    """Return the messages of the code, each with the file that prints it."""
    found: dict[str, str] = {}
    for folder in FOLDERS:
        place = root / folder
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            if path.relative_to(root).as_posix().startswith(ELSEWHERE):
                continue
            for text in _in_module(ast.parse(path.read_text(encoding="utf-8"))):
                if text not in INTERNAL and len(re.findall("[A-Za-z]", text)) >= _MIN_LETTERS:
                    found.setdefault(text, path.relative_to(root).as_posix())
    return found


def _in_module(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=args) if len(
                args
            ) > ARGUMENT.get(name, 99):
                yield from _texts(args[ARGUMENT[name]])
            case ast.Assign(targets=[target], value=value) if _names(target) & TARGETS:
                yield from _texts(value)
            case ast.FunctionDef(name=name) if "explain" in name or name in EXPLAINING:
                for inside in ast.walk(node):
                    if isinstance(inside, ast.Return) and inside.value is not None:
                        yield from _texts(inside.value)


def _names(target: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name)}


def _texts(node: ast.expr) -> Iterator[str]:
    match node:
        case ast.IfExp(body=body, orelse=orelse):
            yield from _texts(body)
            yield from _texts(orelse)
        case ast.Tuple(elts=[first, *_]):
            yield from _texts(first)
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=values):
            parts = (part.value if isinstance(part, ast.Constant) else "…" for part in values)
            yield "".join(map(str, parts))
