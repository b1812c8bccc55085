"""The sentences of docs/protocol.md that contain MUST or MUST NOT, with the heading above each."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "protocol.md"
_ITEM_OR_ROW_START: Final = re.compile(r"^(?:- |\d+\. |\* |\|)")
_SENTENCE_BREAK: Final = re.compile(r"(?<=[.!?])\s+(?=[A-Z`*(\d])")


class Sentence(NamedTuple):
    """One sentence.

    Attributes:
        anchor: the anchor of the heading above the sentence.
        text: the sentence on one line.
    """

    anchor: str
    text: str


def anchor_of(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """The anchors of all headings."""
    return {anchor_of(heading) for heading in re.findall(r"(?m)^#+ (.+)$", _prose(text))}


def _prose(text: str) -> str:
    """The text without fenced code blocks."""
    return re.sub(r"(?ms)^```.*?^```$", "", text)


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield (anchor, text) of each paragraph, list item and table cell."""
    anchor, lines = "", list[str]()
    for line in [*_prose(text).splitlines(), ""]:
        heading = re.match(r"#+ (.+)$", line)
        if heading or not line.strip() or _ITEM_OR_ROW_START.match(line.lstrip()):
            if lines:
                yield anchor, " ".join(lines)
            lines = []
        if heading:
            anchor = anchor_of(heading[1])
        elif line.lstrip().startswith("|"):
            yield from ((anchor, cell) for cell in re.split(r"(?<!\\)\|", line))
        elif line.strip():
            lines.append(re.sub(r"^(?:- |\d+\. |\* )", "", line.strip()))


def must_sentences(text: str) -> list[Sentence]:
    """Every sentence with MUST or MUST NOT, in order."""
    return [
        Sentence(anchor, sentence.strip())
        for anchor, block in _blocks(text)
        for sentence in _SENTENCE_BREAK.split(block)
        if re.search(r"\bMUST\b", sentence)
    ]
