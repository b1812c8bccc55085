"""Structured logging: a fixed event with fields, as in `log.info("connected", resumed=3)`."""

import logging


class EventLogger:
    """Logs events; each keyword argument becomes a field of the record.

    The event is a fixed lower-case text, so that it can be searched for; what varies is a field.
    Fields never contain prompts, answers, headers or keys.

    Args:
        name: the logger's name; a module passes its `__name__`.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def __repr__(self) -> str:
        return f"<EventLogger {self._logger.name}>"

    def enabled_for(self, level: int) -> bool:
        """Whether records of `level` are logged; for fields that are expensive to compute."""
        return self._logger.isEnabledFor(level)

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
        # stacklevel 3 records the file and line of the caller instead of this file's.
        self._logger.log(level, event, exc_info=exc_info, extra={"fields": fields}, stacklevel=3)
