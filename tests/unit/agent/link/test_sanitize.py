import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.agent.link.sanitize import MAX_SHOWN_CHARS, sanitize


@given(st.text(max_size=2 * MAX_SHOWN_CHARS))
def test_whatever_is_shown_is_one_short_printable_line(text: str) -> None:
    assert sanitize(text).isprintable()
    assert len(sanitize(text)) <= MAX_SHOWN_CHARS + 1


@pytest.mark.parametrize("text", ["", "This key is not enrolled.", "Schlüssel ✓", "x" * 500])
def test_an_honest_reason_stays_as_it_is(text: str) -> None:
    assert sanitize(text) == text


def test_what_a_terminal_would_act_on_is_replaced() -> None:
    assert sanitize("\x1b[2J\x9b2J\u202e\r\n") == "\ufffd[2J\ufffd2J\ufffd\ufffd\ufffd"
