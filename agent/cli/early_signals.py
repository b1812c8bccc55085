"""Handles signals that arrive before the service has installed its own handlers.

Without a handler, SIGHUP terminates the process, and process 1 of a container ignores SIGTERM and
SIGINT: stopping a container while the agent starts would take the whole grace period.
"""

import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Final, Self

Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None

_STOP: Final = (signal.SIGTERM, signal.SIGINT)


class EarlySignals:
    """A context manager that handles signals until it exits, or other handlers replace its own.

    SIGTERM and SIGINT end the process with exit code 0: no job runs yet, so there is nothing to
    drain. SIGHUP is remembered.

    Attributes:
        reload_requested: whether SIGHUP was received.
    """

    def __init__(self) -> None:
        self.reload_requested = False
        self._previous_handlers: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> Self:
        for number in _STOP:
            self._previous_handlers[number] = signal.signal(number, _exit)
        self._previous_handlers[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._request_reload)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _request_reload(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.reload_requested = True


def _exit(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    # Not by an exception: it could be raised at any line of the main thread, and an import that
    # catches exceptions could swallow it.
    os._exit(0)
