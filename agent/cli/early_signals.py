"""Signals that come before the service can answer them.

Without a handler SIGHUP ends the process, and process 1 of a container ignores SIGTERM and SIGINT
altogether: whoever stops it in its first moments would wait for its grace period to end.
"""

import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Final, Self

Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None

_STOP: Final = (signal.SIGTERM, signal.SIGINT)


class EarlySignals:
    """Answers signals from entry to exit, or until somebody else takes them over.

    SIGTERM and SIGINT end the process with 0: nothing was served, so nothing is to be drained.
    SIGHUP is remembered.

    Attributes:
        reload_asked: whether SIGHUP came.
    """

    def __init__(self) -> None:
        self.reload_asked = False
        self._before: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> Self:
        for number in _STOP:
            self._before[number] = signal.signal(number, _leave)
        self._before[signal.SIGHUP] = signal.signal(signal.SIGHUP, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.reload_asked = True


def _leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    # No exception: it would surface wherever the main thread is, and an import can swallow it.
    os._exit(0)
