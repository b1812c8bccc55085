"""docs/troubleshooting.md has every message that tells an operator about a problem."""

import re
from pathlib import Path

from documentation.messages import messages
from provider_agent.agent.backends.routing import RefusalReason

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^### `(.+)`$", PAGE, re.MULTILINE)
ALSO = [
    " ".join(text.split())
    for paragraph in re.findall(r"^Also: ((?:.+\n)+)", PAGE, re.MULTILINE)
    for text in re.findall(r"`([^`]+)`", paragraph)
]


def pattern(message: str) -> re.Pattern[str]:
    """Match a text that has the words of a message, and any values."""
    return re.compile(".*".join(re.escape(part) for part in plain(message).split("…")))


def plain(message: str) -> str:
    """A message without the quotes of commands, which would end the page's own."""
    return message.replace("`", "").strip()


def test_every_message_of_the_code_has_a_place() -> None:
    listed = [*HEADINGS, *ALSO]
    missing = {
        message: path
        for message, path in messages().items()
        if not any(pattern(message).search(one) for one in listed)
    }
    assert missing == {}


def test_every_listed_message_exists() -> None:
    patterns = [pattern(message) for message in messages()]
    made = ["expected a whole number", "not valid TOML"]  # of parts, or by the parser of TOML
    stale = [
        one
        for one in (*HEADINGS, *ALSO)
        if not any(found.search(one) for found in patterns)
        and not any(text in one for text in made)
    ]
    assert stale == []


def test_no_message_is_listed_twice() -> None:
    listed = [*HEADINGS, *ALSO]
    assert sorted(listed) == sorted(set(listed))


def test_every_heading_has_a_remedy() -> None:
    for section in PAGE.split("\n### ")[1:]:
        text = re.sub(
            r"^Also: (?:.+\n)+|^## .*", "", section.partition("\n")[2], flags=re.MULTILINE
        )
        assert len(text.split()) > 5, section
    assert len(HEADINGS) >= 20


def test_every_reason_of_a_refusal_is_explained() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in DOCS.rglob("*.md"))
    for reason in RefusalReason:
        assert f"| `{reason}` |" in text
