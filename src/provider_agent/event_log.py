"""Structured logging: a fixed event with fields, as in `log.info("connected", resumed=3)`."""

import logging
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import PurePath
from types import FrameType
from typing import Final

_STARTED: Final = time.time()


class EventRecord(logging.LogRecord):
    """A log record of one event; `fields` holds its fields.

    It has the attributes of every `LogRecord`. Those of process, thread and task are None, as
    `logging.logThreads = False` makes them: no formatter of this project shows them, and to find
    them costs more than the rest of the record.

    Args:
        name: the logger's name.
        level: a level of the `logging` module.
        event: the event.
        fields: its fields.
        exc_info: the exception to log; True: the one that is being handled; False: none.
        caller: the frame that logs the event.
    """

    def __init__(
        self,
        name: str,
        level: int,
        event: str,
        fields: dict[str, object],
        exc_info: BaseException | bool,
        caller: FrameType,
    ) -> None:
        shown: object = None
        if isinstance(exc_info, BaseException):
            shown = (type(exc_info), exc_info, exc_info.__traceback__)
        elif exc_info:
            shown = sys.exc_info()
        code, created = caller.f_code, time.time()
        # `LogRecord.__init__` would take several times as long.
        self.__dict__ = {
            "name": name,
            "msg": event,
            "args": (),
            "levelname": logging.getLevelName(level),
            "levelno": level,
            "exc_info": shown,
            "exc_text": None,
            "stack_info": None,
            "lineno": caller.f_lineno,
            "funcName": code.co_name,
            "created": created,
            "msecs": created % 1 * 1000,
            "relativeCreated": (created - _STARTED) * 1000,
            "fields": fields,
            **_file_attributes(code.co_filename),
        }


@lru_cache(maxsize=256)
def _file_attributes(path: str) -> dict[str, object]:
    """Return the attributes of the records of one file, and those that are the same in all."""
    name = PurePath(path)
    unknown = ("process", "processName", "thread", "threadName", "taskName")
    return {
        "pathname": path,
        "filename": name.name,
        "module": name.stem,
        **dict.fromkeys(unknown),
    }


class EventLogger:
    """Logs events; each keyword argument becomes a field of the record.

    The event is a fixed lower-case text, so that it can be searched for; what varies is a field.
    Fields never contain prompts, answers, headers or keys.

    Args:
        name: the logger's name; a module passes its `__name__`.

    Attributes:
        enabled_for: returns whether records of a level are logged; for fields that are expensive
            to compute.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        self.enabled_for: Callable[[int], bool] = self._logger.isEnabledFor

    def __repr__(self) -> str:
        return f"<EventLogger {self._logger.name}>"

    def debug(self, event: str, /, **fields: object) -> None:
        """Log frames and decisions, for a developer."""
        self._log(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """Log normal operation."""
        self._log(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """Log a condition that the program handles, and that the operator should know about."""
        self._log(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """Log a failure that needs the operator."""
        self._log(logging.ERROR, event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """Log a defect with the traceback of the exception that is being handled."""
        self._log(logging.ERROR, event, fields, exc_info=True)

    def failure(self, event: str, error: BaseException, /, **fields: object) -> None:
        """Log a defect with the traceback of `error`, such as the exception of an ended task."""
        self._log(logging.ERROR, event, fields, exc_info=error)

    def log(self, level: int, event: str, /, **fields: object) -> None:
        """Log at a level of the `logging` module, such as `logging.INFO`."""
        self._log(level, event, fields)

    def _log(
        self,
        level: int,
        event: str,
        fields: dict[str, object],
        exc_info: BaseException | bool = False,
    ) -> None:
        logger = self._logger
        if logger.isEnabledFor(level):
            caller = sys._getframe(2)  # noqa: SLF001 - as `logging` does; 1 is `info`, `log`, …
            logger.handle(EventRecord(logger.name, level, event, fields, exc_info, caller))
