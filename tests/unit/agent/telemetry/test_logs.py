import io
import json
import logging
import warnings
from collections.abc import Collection, Iterator
from typing import Literal

import pytest

from provider_agent.agent.telemetry.logs import MAX_VALUE_CHARS, configure_logging

SECRET = "hunter22-hunter22"


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("provider_agent")
    before = (root.handlers[:], root.level, ours.level)
    yield
    root.handlers[:], root.level = before[0], before[1]
    ours.setLevel(before[2])
    logging.captureWarnings(False)


def configured(
    fmt: Literal["text", "json"], level: str = "info", secrets: Collection[str] = (SECRET,)
) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level, fmt, stream, secrets)
    return stream


LOG = logging.getLogger("provider_agent.test")


def test_text_is_one_line_with_event_and_fields() -> None:
    stream = configured("text")
    LOG.info(
        "job ended",
        extra={
            "fields": {
                "code": "ok",
                "bytes": 12,
                "note": "two words",
                "tokens": None,
                "job_id": b"\x01\xff",
            }
        },
    )
    time, _, rest = stream.getvalue().partition(" ")
    assert rest == (
        "INFO provider_agent.test job ended "
        'code=ok bytes=12 note="two words" tokens=null job_id=01ff\n'
    )
    assert time.endswith("Z")


def test_json_is_one_object_per_line() -> None:
    stream = configured("json")
    LOG.warning("link lost", extra={"fields": {"close_code": 1006, "event": "x", "list": [1, "a"]}})
    entry = json.loads(stream.getvalue())
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "warning",
        "logger": "provider_agent.test",
        "event": "link lost",
        "close_code": 1006,
        "field_event": "x",
        "list": [1, "a"],
    }


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_no_secret_is_written_wherever_it_stands(fmt: Literal["text", "json"]) -> None:
    secret = 'quote"back\\slash-and-newline\n'
    stream = configured(fmt, secrets={SECRET, secret})
    try:
        raise ValueError(f"failed with {SECRET}")
    except ValueError:
        LOG.exception(
            "failed for %s",
            SECRET,
            extra={
                "fields": {"a": f"x{SECRET}x", "b": {SECRET: [secret]}, "error": ValueError(SECRET)}
            },
        )
    LOG.info("said", extra={"fields": {"header": "Authorization: Bearer abcdefghijkl"}})
    LOG.info("set", extra={"fields": {"enrollment_code": "tiny!", "output_tokens": 7}})
    written = stream.getvalue()
    assert "hunter22" not in written
    assert "slash-and" not in written
    assert "abcdefghijkl" not in written
    assert "tiny!" not in written
    assert "output_tokens=7" in written or '"output_tokens":7' in written
    assert "ValueError: failed with [redacted]" in written


def test_a_secret_learnt_later_is_honoured() -> None:
    secrets: set[str] = set()
    stream = configured("text", secrets=secrets)
    secrets.add("token-from-file")
    LOG.info("token-from-file")
    assert "token-from-file" not in stream.getvalue()


def test_a_line_cannot_be_forged_by_what_is_logged() -> None:
    stream = configured("text")
    LOG.info(
        "bad\nINFO forged", extra={"fields": {"reason": "x\n2026 INFO forged", "bytes": b"x" * 99}}
    )
    assert stream.getvalue().count("\n") == 1
    assert 'bytes="99 bytes"' in stream.getvalue()


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_nothing_that_is_logged_takes_over_a_terminal(fmt: Literal["text", "json"]) -> None:
    """C1 controls and marks of direction are no control characters to JSON."""
    stream = configured(fmt)
    nasty = "\x1b[2J \x9b2J \u202e \U000e0001 \u2028"
    try:
        raise ValueError(nasty)
    except ValueError:
        LOG.exception(nasty, extra={"fields": {"reason": nasty, "many": [nasty]}})
    assert all(line.isprintable() for line in stream.getvalue().split("\n"))


def test_long_values_are_cut() -> None:
    stream = configured("json")
    LOG.info("upstream said", extra={"fields": {"body": "é " * MAX_VALUE_CHARS}})
    assert len(json.loads(stream.getvalue())["body"]) == MAX_VALUE_CHARS + 1


def test_text_that_is_not_unicode_is_logged_all_the_same() -> None:
    for fmt in ("text", "json"):
        stream = configured("json" if fmt == "json" else "text")
        LOG.info("odd", extra={"fields": {"path": "a\udcff b"}})
        assert "udcff" in stream.getvalue()


def test_libraries_stay_quiet_at_debug() -> None:
    stream = configured("text", level="debug")
    logging.getLogger("websockets.client").debug("> TEXT 'a prompt'")
    LOG.debug("seen")
    assert "prompt" not in stream.getvalue()
    assert "seen" in stream.getvalue()


def test_the_level_is_followed_and_set_again() -> None:
    first = configured("text", level="error")
    LOG.warning("one")
    second = configured("text", level="warning")
    LOG.warning("two")
    assert first.getvalue() == ""
    assert "two" in second.getvalue()


def test_python_warnings_go_to_the_log() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        stream = configured("text")
        warnings.warn(f"careful {SECRET}", UserWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert "careful [redacted]" in stream.getvalue()
