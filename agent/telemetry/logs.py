"""Formats log records as text or JSON lines and redacts secrets.

This project's records come from `EventLogger`: the message is the event, `record.fields` holds the
fields. The formatter redacts after rendering the traceback and before JSON escaping, so that a
traceback is redacted too, and escaping cannot hide a secret.
"""

import logging
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Literal, TextIO

import msgspec

from provider_agent.adapters.responses.redaction import is_clean, redact
from provider_agent.agent.telemetry.log_folding import WarningFolder
from provider_agent.log_writer import handler_for

ROOT: Final = "provider_agent"
"""Parent of all loggers of this project."""

MAX_VALUE_CHARS: Final = 4096
"""A longer event or field is cut to this length: a server's error message may be huge."""

MAX_TRACE_CHARS: Final = 32 * 1024
"""A longer traceback is cut to this length."""

RECENT_LINES: Final = 500
"""The number of last lines that are kept in memory, for the support bundle."""

MAX_RECENT_CHARS: Final = 2048
"""A longer line is kept in part, so that all lines together need a few MiB at most."""

_recent: Final[deque[str]] = deque(maxlen=RECENT_LINES)

_SECRET_FIELDS: Final = frozenset(
    {"api_key", "authorization", "enrollment_code", "password", "secret", "token", "x-api-key"}
)

_NEEDS_QUOTES: Final = re.compile(r"[ =\"']")

_PLAIN_TEXTS: Final = re.compile(r"[ !#-&(-<>-~]{0,1024}")
"""Texts of printable ASCII without quotes and "=", separated by spaces."""

_SHOWN_AS: Final[dict[object, str]] = {None: "none", "": '""'}
"""Values that the text format shows differently."""

_MAX_DEPTH: Final = 4
"""Containers nested deeper than this are logged as their `str`."""


def configure_logging(
    level: str,
    fmt: Literal["text", "json"],
    stream: TextIO,
    secrets: Collection[str],
) -> None:
    """Send all logs to `stream`. A second call replaces the first.

    `level` applies to the loggers of this project. All others have the level "warning": at "debug",
    websockets logs the content of messages, which includes prompts.

    Args:
        level: "debug", "info", "warning" or "error".
        fmt: human-readable lines, or one JSON object per line.
        stream: usually standard error.
        secrets: values to redact; read for every line, so values that the caller adds later, as
            after a reload, are redacted too.
    """
    handler = handler_for(stream)
    handler.setFormatter(JsonFormatter(secrets) if fmt == "json" else TextFormatter(secrets))
    handler.addFilter(WarningFolder(handler.handle))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old.formatter, _RedactingFormatter)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    set_level(level)
    logging.captureWarnings(True)


def set_level(level: str) -> None:
    """Set the level of this project's loggers: "debug", "info", "warning" or "error"."""
    logging.getLogger(ROOT).setLevel(level.upper())


def recent_lines() -> list[str]:
    """Return the last lines of the log, the oldest first, as they were written."""
    return list(_recent)


class _RedactingFormatter(logging.Formatter, ABC):
    """Base of both formatters: returns the redacted parts of a record, and keeps the last lines."""

    def __init__(self, secrets: Collection[str]) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, with the lines of its traceback."""
        line = self._line(record)
        _recent.append(line[:MAX_RECENT_CHARS])
        return line

    @abstractmethod
    def _line(self, record: logging.LogRecord) -> str: ...

    def _event(self, record: logging.LogRecord) -> str:
        return self._clean(record.getMessage(), MAX_VALUE_CHARS)

    def _plain_fields(self, event: str, record: logging.LogRecord) -> dict[str, object] | None:
        """Return the fields of a record that need neither redaction nor quotes nor escapes.

        None if that is not certain. Most records are of ended jobs, and one check of all their
        texts together costs a fraction of one for each.
        """
        fields = record.__dict__.get("fields")
        if type(fields) is not dict or not _SECRET_FIELDS.isdisjoint(map(str.lower, fields)):
            return None
        texts = [event]
        for value in fields.values():
            if isinstance(value, str) and " " not in value:
                texts.append(value)
            elif value is not None and type(value) is not int:
                return None
        text = " ".join(texts)
        plain = _PLAIN_TEXTS.fullmatch(text) and is_clean(text, self._secrets)
        return fields if plain else None

    def _fields(self, record: logging.LogRecord) -> dict[str, object]:
        fields = getattr(record, "fields", None)
        if not isinstance(fields, Mapping):
            return {}
        return {str(name): self._value(str(name), value) for name, value in fields.items()}

    def _trace(self, record: logging.LogRecord) -> str | None:
        if not record.exc_info:
            return None
        return self._clean(self.formatException(record.exc_info), MAX_TRACE_CHARS)

    def _value(self, name: str, value: object, depth: int = 0) -> object:
        if name.lower() in _SECRET_FIELDS and value is not None:
            return "[redacted]"
        if isinstance(value, str):
            return self._clean(value, MAX_VALUE_CHARS)
        if value is None or isinstance(value, int | float):
            return value
        if isinstance(value, bytes):
            # Bytes are ids or bodies; only a short id is useful in a log.
            return value.hex() if len(value) <= 32 else f"{len(value)} bytes"
        if depth < _MAX_DEPTH and isinstance(value, Mapping):
            return {
                self._clean(str(key), MAX_VALUE_CHARS): self._value(str(key), item, depth + 1)
                for key, item in value.items()
            }
        if depth < _MAX_DEPTH and isinstance(value, list | tuple | set | frozenset):
            return [self._value("", item, depth + 1) for item in value]
        return self._clean(str(value), MAX_VALUE_CHARS)

    def _clean(self, text: str, limit: int) -> str:
        """Redact and truncate; escape lone surrogates, which JSON cannot represent."""
        clean = redact(text, self._secrets)
        if not clean.isascii():
            clean = clean.encode(errors="backslashreplace").decode()
        return clean if len(clean) <= limit else f"{clean[:limit]}…"


class TextFormatter(_RedactingFormatter):
    """`2026-01-31T12:00:00.000Z INFO provider_agent.agent.link.uplink connected resumed=2 …`."""

    def _line(self, record: logging.LogRecord) -> str:
        """Return one line, followed by the indented lines of the traceback."""
        event = record.getMessage()
        plain = self._plain_fields(event, record)
        if plain is not None and not record.exc_info:
            pairs = [f" {name}={_SHOWN_AS.get(value, value)}" for name, value in plain.items()]
            return f"{_time(record)} {record.levelname} {record.name} {event}{''.join(pairs)}"
        parts = [_time(record), record.levelname, record.name, _one_line(self._event(record))]
        parts += [f"{name}={_text_value(value)}" for name, value in self._fields(record).items()]
        line = " ".join(parts)
        trace = self._trace(record)
        if trace is None:
            return line
        # Indented, because the message of an exception may contain a line that looks like a record.
        return "\n".join([line, *(f"  {_one_line(part)}" for part in trace.split("\n"))])


class JsonFormatter(_RedactingFormatter):
    """One JSON object with time, level, logger, event, the fields, and any traceback as `trace`."""

    def _line(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": self._event(record),
        }
        fields = self._plain_fields("", record)
        if fields is None:
            fields = self._fields(record)
        for name, value in fields.items():
            entry[f"field_{name}" if name in entry or name == "trace" else name] = value
        if (trace := self._trace(record)) is not None:
            entry["trace"] = trace
        return _encode(entry)


def _time(record: logging.LogRecord) -> str:
    second, milliseconds = divmod(int(record.created * 1000), 1000)
    return f"{_second(second)}.{milliseconds:03}Z"


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    """Return a time without its fraction. Under load, many records share one second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _one_line(text: str) -> str:
    """Escape unprintable characters such as line ends, so that a record stays one line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _text_value(value: object) -> str:
    """Return printable text without space, quote or "=" as it is; most other values as JSON."""
    if value is None:
        return "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str) and value.isprintable() and not _NEEDS_QUOTES.search(value):
        return value or '""'
    return _encode(value)


def _encode(value: object) -> str:
    """Return JSON without characters that could control a terminal."""
    text = msgspec.json.encode(value).decode()
    # JSON does not escape C1 controls and bidirectional marks.
    return text if text.isprintable() else "".join(map(_escape_unprintable, text))


def _escape_unprintable(char: str) -> str:
    """Return a printable character unchanged, another one as its JSON escape."""
    if char.isprintable():
        return char
    units = char.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
