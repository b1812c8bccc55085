import io

import pytest
from rich.table import Table

from provider_agent.agent.cli.terminal import PIPE_WIDTH, console, dollar_text, visible


@pytest.mark.parametrize(
    "text", ["[coordinator] url", "llama:8b:instruct", ":smile:", "[/]", "a" * 150]
)
def test_markup_in_texts_is_printed_literally(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = console()
    table = Table.grid()
    table.add_row(text)

    out.print(text)
    out.print(table)

    assert [line.strip() for line in capsys.readouterr().out.splitlines()] == [text, text]


def test_pipe_has_a_fixed_width() -> None:
    assert console().width == PIPE_WIDTH


def test_terminal_keeps_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdout", Terminal())
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")

    assert console().width == 80


@pytest.mark.parametrize(
    ("text", "keep", "shown"),
    [
        ("plain — ünï", "", "plain — ünï"),
        ("\x1b]0;title\x07", "", "\ufffd]0;title\ufffd"),
        ("a\r\nb\tc", "\n\t", "a\ufffd\nb\tc"),
    ],
)
def test_control_characters_are_replaced(text: str, keep: str, shown: str) -> None:
    assert visible(text, keep=keep) == shown


def test_console_prints_no_control_character_of_any_text(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = Table("head \x1b[2J")
    table.add_row("cell \x9b31m")
    out = console()

    out.print("line \x1b]0;title\x07\nnext \u202e")
    out.print(table)

    shown = capsys.readouterr().out
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert "line \ufffd]0;title\ufffd\nnext \ufffd\n" in shown


@pytest.mark.parametrize(("millionths", "text"), [(87.5, "$0.000088"), (1_234_567, "$1.234567")])
def test_amounts_are_rounded_as_in_the_sums(millionths: float, text: str) -> None:
    """The last hour had $0.000087, and the sum of the same jobs $0.000088."""
    assert dollar_text(millionths) == text
