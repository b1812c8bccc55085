import pytest

from provider_agent.protocol.event_stream import ends_between_events, unify_line_ends


def test_every_kind_of_line_end_becomes_lf() -> None:
    assert unify_line_ends(b"a\r\nb\rc\n\r\n\r") == b"a\nb\nc\n\n\n"


@pytest.mark.parametrize(
    ("tail", "between"),
    [
        (b"x\n\n", True),
        (b"\r\n\r\n", True),
        (b"xx\r\r", True),
        (b"x\n\r\n", True),
        (b"\r\n\n", True),
        (b"xxx\n", False),
        (b"xx\r\n", False),
        (b"xxx\r", False),
        (b"\n\nx", False),
        (b"", False),
    ],
)
def test_stream_ends_between_events_after_a_blank_line(tail: bytes, between: bool) -> None:
    assert ends_between_events(tail) is between
