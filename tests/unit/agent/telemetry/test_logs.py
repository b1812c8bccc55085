import io
import json
import logging
import warnings
from collections.abc import Collection, Iterator
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.agent.telemetry.logs import (
    MAX_VALUE_CHARS,
    JsonFormatter,
    TextFormatter,
    configure_logging,
)

SECRET = "hunter22-hunter22"


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root, agent_logger = logging.getLogger(), logging.getLogger("provider_agent")
    before = (root.handlers[:], root.level, agent_logger.level)
    yield
    root.handlers[:], root.level = before[0], before[1]
    agent_logger.setLevel(before[2])
    logging.captureWarnings(False)


def start_logging(
    fmt: Literal["text", "json"], level: str = "info", secrets: Collection[str] = (SECRET,)
) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(level, fmt, stream, secrets)
    return stream


LOG = logging.getLogger("provider_agent.test")


def test_text_format_is_one_line_with_event_and_fields() -> None:
    stream = start_logging("text")
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
        'code=ok bytes=12 note="two words" tokens=none job_id=01ff\n'
    )
    assert time.endswith("Z")


def test_json_format_is_one_object_per_line() -> None:
    stream = start_logging("json")
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
def test_secrets_are_redacted_in_event_fields_and_traceback(fmt: Literal["text", "json"]) -> None:
    secret = 'quote"back\\slash-and-newline\n'
    stream = start_logging(fmt, secrets={SECRET, secret})
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
    LOG.info("response headers", extra={"fields": {"header": "Authorization: Bearer abcdefghijkl"}})
    LOG.info("set", extra={"fields": {"enrollment_code": "tiny!", "output_tokens": 7}})
    written = stream.getvalue()
    assert "hunter22" not in written
    assert "slash-and" not in written
    assert "abcdefghijkl" not in written
    assert "tiny!" not in written
    assert "output_tokens=7" in written or '"output_tokens":7' in written
    assert "ValueError: failed with [redacted]" in written


def test_secret_added_later_is_redacted() -> None:
    secrets: set[str] = set()
    stream = start_logging("text", secrets=secrets)
    secrets.add("token-from-file")
    LOG.info("token-from-file")
    assert "token-from-file" not in stream.getvalue()


def test_logged_text_cannot_forge_a_second_line() -> None:
    stream = start_logging("text")
    LOG.info(
        "bad\nINFO forged", extra={"fields": {"reason": "x\n2026 INFO forged", "bytes": b"x" * 99}}
    )
    assert stream.getvalue().count("\n") == 1
    assert 'bytes="99 bytes"' in stream.getvalue()


def test_exception_message_in_a_traceback_cannot_forge_a_record() -> None:
    # In an earlier version, the text after a newline in the message of an exception was not
    # indented, and looked like a new record.
    stream = start_logging("text")
    try:
        raise ValueError(
            "bad\n2026-01-31T12:00:00.000Z INFO provider_agent forged\r\n\nINFO forged"
        )
    except ValueError:
        LOG.exception("adapter failed")
    first, *trace = stream.getvalue().splitlines()
    assert first.endswith("ERROR provider_agent.test adapter failed")
    assert trace[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") for line in trace)


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_unprintable_characters_are_escaped(fmt: Literal["text", "json"]) -> None:
    # msgspec's JSON encoder does not escape C1 control characters and bidirectional marks.
    stream = start_logging(fmt)
    unprintable = "\x1b[2J \x9b2J \u202e \U000e0001 \u2028"
    try:
        raise ValueError(unprintable)
    except ValueError:
        LOG.exception(unprintable, extra={"fields": {"reason": unprintable, "many": [unprintable]}})
    assert all(line.isprintable() for line in stream.getvalue().split("\n"))


def test_long_values_are_truncated() -> None:
    stream = start_logging("json")
    LOG.info("upstream failed", extra={"fields": {"body": "é " * MAX_VALUE_CHARS}})
    assert len(json.loads(stream.getvalue())["body"]) == MAX_VALUE_CHARS + 1


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_lone_surrogate_is_escaped_in_place(fmt: Literal["text", "json"]) -> None:
    # A path that is not valid UTF-8 contains lone surrogates, which UTF-8 cannot encode.
    stream = start_logging(fmt)
    LOG.info("odd", extra={"fields": {"path": "a\udcff", "bytes": 7}})
    line = stream.getvalue()
    if fmt == "json":
        entry = json.loads(line)
        assert (entry["path"], entry["bytes"]) == ("a\\udcff", 7)
    else:
        assert line.endswith(r"odd path=a\udcff bytes=7" + "\n")


def test_only_unprintable_characters_of_an_event_are_escaped() -> None:
    stream = start_logging("text")
    LOG.info("Größe \\ 1\n2")
    assert stream.getvalue().endswith(r"Größe \ 1\n2" + "\n")


def test_debug_level_does_not_apply_to_libraries() -> None:
    stream = start_logging("text", level="debug")
    logging.getLogger("websockets.client").debug("> TEXT 'a prompt'")
    LOG.debug("seen")
    assert "prompt" not in stream.getvalue()
    assert "seen" in stream.getvalue()


def test_second_configuration_replaces_the_level_and_the_stream() -> None:
    first = start_logging("text", level="error")
    LOG.warning("one")
    second = start_logging("text", level="warning")
    LOG.warning("two")
    assert first.getvalue() == ""
    assert "two" in second.getvalue()


def test_python_warnings_are_logged() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        stream = start_logging("text")
        warnings.warn(f"careful {SECRET}", UserWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert "careful [redacted]" in stream.getvalue()


class SlowTextFormatter(TextFormatter):
    """Checks and quotes each field by itself."""

    def _plain_fields(self, event: str, record: logging.LogRecord) -> None:
        return None


class SlowJsonFormatter(JsonFormatter):
    """Checks each field by itself."""

    def _plain_fields(self, event: str, record: logging.LogRecord) -> None:
        return None


FIELD_NAMES = st.sampled_from(["job", "code", "bytes", "token", "API_KEY", "level", "trace"])
TEXTS = st.text(max_size=8) | st.sampled_from(
    ["openai", "two words", 'a"b', "a=b", "sk-abcdefgh", SECRET, f"a{SECRET}", "key:", "K" * 20]
)
VALUES = TEXTS | st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=2)


@given(TEXTS, st.dictionaries(FIELD_NAMES, VALUES), st.integers(0, 2_000_000_000_000))
def test_fields_that_are_formatted_at_once_look_like_fields_that_are_formatted_one_by_one(
    event: str, fields: dict[str, object], milliseconds: int
) -> None:
    record = logging.LogRecord("name", logging.INFO, "", 0, event, None, None)
    record.created = milliseconds / 1000
    record.fields = fields
    for fast, slow in ((TextFormatter, SlowTextFormatter), (JsonFormatter, SlowJsonFormatter)):
        assert fast({SECRET}).format(record) == slow({SECRET}).format(record)


def test_usual_record_of_an_ended_job_is_formatted_at_once() -> None:
    fields = {"job": "0" * 32, "model": "m-7b", "operation": "", "input_tokens": None, "bytes": 12}
    record = logging.LogRecord("name", logging.INFO, "", 0, "job ended", None, None)
    record.fields = fields
    formatter = TextFormatter({SECRET})

    assert formatter._plain_fields("job ended", record) is fields
    shown = f'job={"0" * 32} model=m-7b operation="" input_tokens=none bytes=12'
    assert formatter.format(record).endswith(f" INFO name job ended {shown}")
