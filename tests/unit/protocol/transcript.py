"""Reads docs/protocol/transcripts, whose notation the README there describes."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from tests.unit.protocol.vectors import FOLDER

TRANSCRIPTS: Final = sorted((FOLDER / "transcripts").glob("*.txt"))


class Connect(Struct, frozen=True):
    authority: str


class Message(Struct, frozen=True):
    """One WebSocket message.

    Attributes:
        sender: "A" for the agent, "C" for the coordinator.
        data: the bytes of the message.
        lost: whether the message does not arrive.
    """

    sender: str
    data: bytes
    lost: bool


class Close(Struct, frozen=True):
    sender: str
    code: int


class LinkLost(Struct, frozen=True):
    pass


Event = Connect | Message | Close | LinkLost


def read_transcript(path: Path) -> list[Event]:
    return list(_events(path.read_text(encoding="utf-8")))


def _events(text: str) -> Iterator[Event]:
    lines = re.sub(r"^(?:#.*)?\n", "", text, flags=re.MULTILINE)
    for event in re.findall(r"^\S.*\n(?: .*\n)*", lines, re.MULTILINE):
        match event.split():
            case ["connect", authority]:
                yield Connect(authority)
            case ["link", "lost"]:
                yield LinkLost()
            case [sender, "close", code]:
                yield Close(sender, int(code))
            case [("A" | "C") as sender, "lost", *parts]:
                yield Message(sender, _bytes(parts), lost=True)
            case [("A" | "C") as sender, *parts]:
                yield Message(sender, _bytes(parts), lost=False)
            case _:
                raise AssertionError(f"not understood: {event!r}")


def _bytes(parts: list[str]) -> bytes:
    found = b""
    for part in parts:
        digits, _, times = part.partition("*")
        found += bytes.fromhex(digits) * int(times or 1)
    return found
