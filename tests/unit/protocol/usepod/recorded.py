"""The messages that the marketplace's own agent (usepod-agent 0.3.3) exchanged with a coordinator.

`recorded.jsonl` has them in order: scene, sender and text. Messages whose text was cut when they
were recorded are left out, as are most chunks of a job.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec

_FILE = Path(__file__).with_name("recorded.jsonl")


class Recorded(msgspec.Struct, rename={"sender": "from"}):
    scene: str
    sender: str
    text: str


def recorded(sender: str = "", kind: str = "", scene: str = "") -> Iterator[Recorded]:
    """Return the messages in order: all, or those of a sender, of a type and of a scene."""
    for line in _FILE.read_text(encoding="utf-8").splitlines():
        message = msgspec.json.decode(line, type=Recorded)
        if sender not in ("", message.sender) or scene not in ("", message.scene):
            continue
        if not kind or _type(message.text) == kind:
            yield message


def _type(text: str) -> str:
    try:
        return str(msgspec.json.decode(text)["type"])
    except (ValueError, KeyError, TypeError):
        return ""
