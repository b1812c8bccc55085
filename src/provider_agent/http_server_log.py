"""The log of an aiohttp server, without the errors that its peers can cause."""

import logging

from aiohttp.http import HttpProcessingError


def http_logger() -> logging.Logger:
    """Return the logger for aiohttp.

    It drops the tracebacks of malformed requests, and of peers that disconnect before aiohttp's own
    `100 Continue` is written.
    """
    logger = logging.getLogger(__name__)
    logger.addFilter(_is_our_fault)
    return logger


def _is_our_fault(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | ConnectionError)
