import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.agent.link.sanitize import MAX_CHARS, sanitize


@given(st.text(max_size=2 * MAX_CHARS))
def test_result_is_one_short_printable_line(text: str) -> None:
    assert sanitize(text).isprintable()
    assert len(sanitize(text)) <= MAX_CHARS + len("…")


@pytest.mark.parametrize("text", ["", "This key is not enrolled.", "Schlüssel ✓", "x" * 500])
def test_printable_text_is_unchanged(text: str) -> None:
    assert sanitize(text) == text


def test_terminal_control_characters_are_replaced() -> None:
    assert sanitize("\x1b[2J\x9b2J\u202e\r\n") == "\ufffd[2J\ufffd2J\ufffd\ufffd\ufffd"
