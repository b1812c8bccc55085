"""The tables in docs/servers/ match the code."""

import re
from pathlib import Path

import pytest

from provider_agent.adapters.base import Backend, BackendSettings, Operation
from provider_agent.adapters.registry import backend_class, create_backend
from provider_agent.adapters.requests.policy import default_policy
from provider_agent.adapters.servers.model_selection import LIST_IT, NOT_LISTED

PAGES = sorted((Path(__file__).parents[3] / "docs" / "servers").glob("*.md"))
DOCUMENT = "".join(page.read_text(encoding="utf-8") for page in PAGES)
KINDS = (
    *("vllm", "llamacpp", "lmstudio", "ollama", "openrouter", "venice"),
    *("openai_compatible", "openai_passthrough", "echo"),
)


def table_rows(heading: str) -> dict[str, list[str]]:
    """Return the rows of a section's table by kind, without the first cell."""
    section = DOCUMENT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE)
    return {kind: [cell.strip() for cell in cells.split(" | ")] for kind, cells in lines}


def backend(kind: str) -> Backend:
    return create_backend(BackendSettings(kind=kind, url="http://127.0.0.1:1"))


def test_fields_of_every_policy_are_documented() -> None:
    section = DOCUMENT.split("\n## Request policy\n")[1].split("\n## ")[0]
    documented: dict[str, dict[Operation, set[str]]] = {}
    for kinds, operations, names in re.findall(
        r"^\| (.+?) \| (`.+?`) \| (`.+`) \|$", section, re.MULTILINE
    ):
        for operation in re.findall("`(.+?)`", operations):
            table = documented.setdefault(kinds.strip("`"), {})
            table.setdefault(Operation(operation), set()).update(re.findall("`(.+?)`", names))

    for kind in (kind for kind in KINDS if kind != "echo"):
        adapter = backend_class(kind)
        policy = adapter.request_policy or default_policy(native=adapter.native)
        origins = ("all", "native" if adapter.native else "", kind)
        for operation in Operation:
            listed = [documented.get(origin, {}).get(operation, set()) for origin in origins]
            assert set(policy.fields[operation]) == set().union(*listed), (kind, operation)


def test_operations_table_has_every_kind_and_operation() -> None:
    documented = table_rows("Operations")

    assert set(documented) == set(KINDS)
    assert {len(cells) for cells in documented.values()} == {len(Operation)}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "echo"])
def test_default_timeouts_are_documented(kind: str) -> None:
    timeouts = backend(kind).timeouts
    documented = table_rows("Timeouts, limits and load")[kind][:4]

    assert [float(cell) for cell in documented] == [
        timeouts.connect_s,
        timeouts.first_byte_s,
        timeouts.silence_s,
        timeouts.total_s,
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_default_number_of_concurrent_jobs_is_documented(kind: str) -> None:
    (line,) = re.findall(rf"^\| \[`{kind}`\].*$", DOCUMENT, re.MULTILINE)

    assert re.findall(r"\d+", line.split("|")[-2]) == [str(backend(kind).max_concurrent)]


@pytest.mark.parametrize("reason", [LIST_IT, NOT_LISTED])
def test_reasons_for_withheld_models_are_documented(reason: str) -> None:
    assert f"| {reason} |" in DOCUMENT
