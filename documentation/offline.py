"""`python -m documentation.offline FOLDER`: fail if a page requests something from another host.

Links that the reader follows may lead to other hosts.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

_URL: Final = re.compile(r"(?:^|(?<=\s))(?:[a-z]+:)?//\S+")
_STYLE: Final = re.compile(r"(?:url\(|@import)\s*['\"]?((?:[a-z]+:)?//[^\s'\")]+)")
_FOLLOWED: Final = frozenset({"a", "area"})
_METADATA: Final = frozenset({"canonical", "license", "next", "prev", "author"})


class _Requests(HTMLParser):
    """Collects the addresses on other hosts that a browser requests for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag in _FOLLOWED or _METADATA & {*values.get("rel", "").split()}:
            return
        for name in ("src", "srcset", "href", "data", "poster", "action"):
            self.found += _URL.findall(values.get(name, ""))
        self.found += _STYLE.findall(values.get("style", ""))


def requested_hosts(html: str) -> list[str]:
    """Return the addresses on other hosts that a browser requests for this page."""
    parser = _Requests()
    parser.feed(html)
    parser.close()
    styles = re.findall(r"<style[^>]*>(.*?)</style>", html, re.DOTALL)
    # The theme draws such a block with a program from another host; see documentation/diagrams.py.
    drawn = re.findall(r'class="mermaid"', html)
    return parser.found + [url for style in styles for url in _STYLE.findall(style)] + drawn


def main(site: Path) -> int:
    """Print the requests of all pages and style sheets; return the exit code."""
    found = {
        f"{path.relative_to(site)}: {url}"
        for path in site.rglob("*.html")
        for url in requested_hosts(path.read_text(encoding="utf-8"))
    }
    found |= {
        f"{path.relative_to(site)}: {url}"
        for path in site.rglob("*.css")
        for url in _STYLE.findall(path.read_text(encoding="utf-8"))
    }
    for line in sorted(found):
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
