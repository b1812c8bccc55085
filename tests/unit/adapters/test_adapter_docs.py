"""The tables of docs/adapters.md match the code."""

import re
from pathlib import Path

import pytest

from provider_agent.adapters.base import Backend, BackendSettings, Operation
from provider_agent.adapters.registry import backend_class, create_backend
from provider_agent.adapters.requests.policy import RequestPolicy
from provider_agent.adapters.servers.model_selection import LIST_IT, NOT_LISTED

DOCUMENT = (Path(__file__).parents[3] / "docs" / "adapters.md").read_text()
KINDS = (
    *("vllm", "llamacpp", "lmstudio", "ollama", "openrouter", "venice"),
    *("openai_compatible", "echo"),
)


def table_rows(heading: str) -> dict[str, list[str]]:
    """Return the rows of a section's table by kind, without the first cell."""
    section = DOCUMENT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = re.findall(r"^\| `(\w+)` \| (.*) \|$", section, re.MULTILINE)
    return {kind: [cell.strip() for cell in cells.split(" | ")] for kind, cells in lines}


def backend(kind: str) -> Backend:
    return create_backend(BackendSettings(kind=kind, url="http://127.0.0.1:1"))


def test_request_policy_of_every_kind_is_documented() -> None:
    documented = {
        kind: tuple(frozenset(re.findall("`([^`]+)`", cell)) for cell in cells)
        for kind, cells in table_rows("Request policy").items()
    }
    policies = {kind: backend_class(kind).request_policy for kind in KINDS}

    assert documented == {
        kind: (policy.fields, frozenset(policy.tool_types))
        for kind, policy in policies.items()
        if policy != RequestPolicy()
    }


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
