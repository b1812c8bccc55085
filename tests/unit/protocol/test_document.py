"""docs/protocol.md matches the code: its limits, tables, headings and links."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, get_args

import msgspec
import pytest

from provider_agent.protocol import limits, receipts
from provider_agent.protocol.errors import REGISTRY
from provider_agent.protocol.formats import MAIN_OPERATION, Operation
from provider_agent.protocol.frames import (
    AgentFrame,
    AgentLimits,
    BackendLoad,
    CoordinatorFrame,
    JobStarted,
    LiveJob,
    ModelLoad,
    ModelOffer,
    Receipt,
    ResponseHeader,
    ResumedJob,
    UnroutableModel,
    Usage,
)
from provider_agent.protocol.response_headers import CLIENT_HEADERS
from tests.unit.protocol.field_notation import describe_fields
from tests.unit.protocol.vectors import VECTORS

DOCS: Final = Path(__file__).parents[3] / "docs"
TEXT: Final = (DOCS / "protocol.md").read_text(encoding="utf-8")
STRUCTS: Final[list[type[msgspec.Struct]]] = [
    *get_args(CoordinatorFrame),
    *get_args(AgentFrame),
    LiveJob,
    ResumedJob,
    UnroutableModel,
    ModelOffer,
    AgentLimits,
    BackendLoad,
    ModelLoad,
    ResponseHeader,
    Usage,
    Receipt,
]
NOT_LIMITS: Final = {"KIB", "MIB", "MOVED", "REPLACED"}


def fenced_blocks(language: str) -> dict[str, str]:
    """Return the fenced blocks of a language, with their comment lines removed.

    The key is the name that follows the language in the first line of the block.
    """
    found = re.findall(rf"^```{language} ?(.*)\n((?:.*\n)*?)```$", TEXT, re.MULTILINE)
    return {name: re.sub(r"^#.*\n", "", body, flags=re.MULTILINE) for name, body in found}


def table_rows(first_cell: str, text: str = TEXT) -> Iterator[list[str]]:
    """The cells of the table rows whose first cell is code that matches `first_cell`."""
    for line in re.findall(rf"^\| `{first_cell}` \|.*\|$", text, re.MULTILINE):
        yield [cell.strip() for cell in line.strip("|").split("|")]


def code_rows(first_cell: str) -> Iterator[list[str]]:
    """Yield the rows of `table_rows` without the backticks around cells."""
    for row in table_rows(first_cell):
        yield [cell.strip("`") for cell in row]


def section(struct: type[msgspec.Struct]) -> str:
    """The text below the heading of a frame or nested array."""
    found = re.findall(
        rf"^### {struct.__name__}(?: \(frame\))?\n((?:(?!#).*\n|#(?!#).*\n)*)", TEXT, re.MULTILINE
    )
    assert len(found) == 1
    return str(found[0])


def test_the_signature_example_matches_the_code() -> None:
    (body,) = fenced_blocks("signature").values()
    shown = {
        name: "".join(value.split())
        for name, value in re.findall(r"(\w+): +((?:\S+\n +)*\S+)\n", body)
    }

    assert shown == msgspec.structs.asdict(VECTORS.signatures[0])


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_each_table_shows_every_field_with_type_and_default_in_order(
    struct: type[msgspec.Struct],
) -> None:
    rows = list(table_rows(r"\w+", section(struct)))

    assert [[name.strip("`"), *cells] for name, *cells, _ in rows] == describe_fields(struct)
    assert all(rule for *_, rule in rows)


@pytest.mark.parametrize("frame", [*get_args(CoordinatorFrame), *get_args(AgentFrame)])
def test_every_frame_has_a_heading_and_its_type(frame: type[msgspec.Struct]) -> None:
    assert section(frame).startswith(f"\nType {frame.__struct_config__.tag}. ")


def test_the_overview_lists_every_frame_with_its_fields() -> None:
    rows = re.findall(
        r"^\| (\d+) \| \[`(\w+)`\]\(#\S+\) \| (\w+) \| .+ \| (.+) \|$", TEXT, re.MULTILINE
    )

    assert rows == [
        (
            str(frame.__struct_config__.tag),
            frame.__name__,
            sender,
            ", ".join(f"`{field}`" for field in frame.__struct_fields__),
        )
        for sender, union in (("coordinator", CoordinatorFrame), ("agent", AgentFrame))
        for frame in get_args(union)
    ]


def test_the_limits_match_the_constants() -> None:
    shown = {name: int(value) for name, value, _ in code_rows(r"[A-Z_0-9]+")}
    constants = {
        name: value
        for name, value in vars(limits).items()
        if name.isupper() and isinstance(value, int | float) and name not in NOT_LIMITS
    }

    assert shown == constants


def test_the_private_close_code_is_documented() -> None:
    assert re.search(rf"^\| {limits.REPLACED} \| .*`REPLACED`", TEXT, re.MULTILINE)
    assert re.search(rf"^\| {limits.MOVED} \| .*`MOVED`", TEXT, re.MULTILINE)


def test_the_error_table_matches_the_registry() -> None:
    shown = [
        row for row in code_rows(r"[a-z_]+") if row[1] in {"client", "provider", "coordinator"}
    ]

    assert shown == [
        [str(code), str(entry.fault), "yes" if entry.retryable else "no", entry.meaning]
        for code, entry in REGISTRY.items()
    ]


def test_the_operation_table_matches_the_code() -> None:
    shown = [row for row in code_rows("(?:openai|anthropic)") if len(row) == 4]

    assert shown == [
        [
            str(operation.wire_format),
            str(operation),
            operation.path,
            "yes" if operation is MAIN_OPERATION[operation.wire_format] else "",
        ]
        for operation in Operation
    ]


def test_the_response_headers_match_the_code() -> None:
    (row,) = table_rows("headers", section(JobStarted))
    shown = re.findall(r"`([a-z-]+)`", row[-1])

    assert len(shown) == len(set(shown))
    assert set(shown) == CLIENT_HEADERS


def test_the_feature_of_version_1_is_documented() -> None:
    found = re.search(r"Version 1 has one feature:\s+\[`(\w+)`\]", TEXT)

    assert found is not None
    assert found[1] == receipts.FEATURE


def test_every_linked_file_exists() -> None:
    files = set(re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXT))

    assert files
    assert [name for name in files if not (DOCS / name).exists()] == []


def test_every_internal_link_has_a_heading() -> None:
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"^```(?:.*\n)*?```$", "", TEXT, flags=re.MULTILINE), re.MULTILINE
    )
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= slugs
