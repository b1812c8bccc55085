"""The tables of docs/configuration.md come from the Structs."""

from typing import Annotated, Literal

import pytest
from msgspec import Meta, inspect

from documentation.configuration import MissingSectionError, configuration_page, values_of
from documentation.reference import DOCS
from provider_agent.adapters.settings import PolicyMode

PAGE = (DOCS / "configuration.md").read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_code() -> None:
    assert configuration_page(PAGE) == PAGE, "run make docs-reference"


def test_a_wrong_default_and_a_missing_row_are_corrected() -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith("| `limits.max_concurrent`"))
    assert "| `8` | 1 to 4096 |" in row

    for wrong in (row.replace("`8`", "`9`"), row.replace("4096", "99")):
        assert configuration_page(PAGE.replace(row, wrong)) == PAGE
    without = configuration_page(PAGE.replace(f"{row}\n", ""))
    assert "| most jobs at once on all backends together |" in without  # from the docstring


def test_a_section_without_a_heading_is_an_error() -> None:
    with pytest.raises(MissingSectionError, match=r"`\[limits\]`"):
        configuration_page(PAGE.replace("## `[limits]`", "## Limits"))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (bool | None, "`true`, `false`"),
        (Annotated[int, Meta(ge=1, le=9)], "1 to 9"),
        (Annotated[int, Meta(ge=1)] | None, "at least 1"),
        (Annotated[float, Meta(gt=0, le=2.5)], "over 0, at most 2.5"),
        (Literal["a", "b"], "`a`, `b`"),
        (PolicyMode, "`refuse`, `strip`, `pass`"),
        (Annotated[tuple[str, ...], Meta(max_length=3)], "list, at most 3"),
        (tuple[PolicyMode, ...], "list: `refuse`, `strip`, `pass`"),
        (dict[str, str], "table"),
        (str, "text"),
    ],
)
def test_accepted_values_are_described(kind: object, text: str) -> None:
    assert values_of(inspect.type_info(kind)) == text
