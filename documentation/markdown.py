"""Links and headings of Markdown files, as a repository viewer understands them."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_FENCE: Final = re.compile(r"^\s*(```+|~~~+)", re.MULTILINE)
_LINK: Final = re.compile(r"(!?\[(?:[^][]|\[[^][]*\])*\])\(([^()\s]+)\)")
_HEADING: Final = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_CODE: Final = re.compile(r"(`+)(?:.|\n)*?\1")


def split_fences(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the parts of a Markdown text, each with whether it is a fenced code block."""
    part: list[str] = []
    fence = ""
    for line in text.splitlines(keepends=True):
        found = _FENCE.match(line)
        if not fence and found:
            yield "".join(part), False
            part, fence = [line], found[1]
        elif fence and line.strip() == fence:
            yield "".join([*part, line]), True
            part, fence = [], ""
        else:
            part.append(line)
    yield "".join(part), bool(fence)


def prose(text: str) -> str:
    """Return a Markdown text without its fenced code blocks."""
    return "".join(part for part, is_code in split_fences(text) if not is_code)


def replace_links(text: str, replace: Callable[[str, str], str]) -> str:
    """Return the text with each link outside of code replaced by `replace(label, target)`.

    `label` contains its brackets, and the `!` of an image.
    """

    def outside_code_spans(part: str) -> str:
        spans = [found.span() for found in _CODE.finditer(part)]

        def replaced(found: re.Match[str]) -> str:
            if any(start <= found.start() < end for start, end in spans):
                return found[0]
            return replace(found[1], found[2])

        return _LINK.sub(replaced, part)

    return "".join(
        part if is_code else outside_code_spans(part) for part, is_code in split_fences(text)
    )


def links(text: str) -> list[str]:
    """Return the targets of all links and images outside of code."""
    found: list[str] = []

    def collect(label: str, target: str) -> str:
        found.append(target)
        return f"{label}({target})"

    replace_links(text, collect)
    return found


def anchors(text: str) -> set[str]:
    """Return the anchors of the headings, by the rules of GitHub and GitLab."""
    found: set[str] = set()
    for heading in _HEADING.findall(prose(text)):
        slug = slug_of(heading)
        number = 0
        while (unique := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(unique)
    return found


def slug_of(heading: str) -> str:
    """Return the anchor of a heading that occurs once on its page."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def broken_links(root: Path, page: Path) -> list[str]:
    """Return the links of a page to files or anchors of the repository that do not exist."""
    broken = []
    for target in links(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        exists = file.is_relative_to(root) and file.exists()
        if not exists or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            broken.append(f"{page.relative_to(root)}: {target}")
    return broken
