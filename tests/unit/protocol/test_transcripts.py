import re
from pathlib import Path

import pytest

from provider_agent.protocol.exceptions import ProtocolError
from tests.unit.protocol.replay import frames_of, replay
from tests.unit.protocol.transcript import TRANSCRIPTS, Message, read_transcript
from tests.unit.protocol.vectors import FOLDER

REPLAY_ERRORS = (AssertionError, AttributeError, IndexError, KeyError, ProtocolError, RuntimeError)


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_both_sides_produce_the_messages_of_the_transcript(path: Path) -> None:
    replay(read_transcript(path))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_a_transcript_without_a_required_message_cannot_be_replayed(path: Path) -> None:
    events = read_transcript(path)
    for index, event in enumerate(events):
        if isinstance(event, Message) and not event.lost and not _is_optional(event):
            with pytest.raises(REPLAY_ERRORS):
                replay(events[:index] + events[index + 1 :])


def _is_optional(message: Message) -> bool:
    """Whether the other messages would be valid without this one."""
    optional = {"Cancel", "Capabilities", "Drain", "Draining", "Heartbeat", "RoutingStatus"}
    return {type(frame).__name__ for frame in frames_of(message)} <= optional


def test_the_list_of_transcripts_is_complete() -> None:
    text = (FOLDER / "transcripts" / "README.md").read_text(encoding="utf-8")

    assert sorted(re.findall(r"\]\(([\w-]+\.txt)\)", text)) == [path.name for path in TRANSCRIPTS]
