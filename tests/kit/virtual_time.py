"""Tests in which waiting costs nothing: an event loop whose clock jumps to the next timer.

Real sockets work as ever. The clock stands still while anything happens, and jumps only when for
`GRACE_S` of real time nothing did: then nothing but a timer can be what everybody waits for.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import ParamSpec

GRACE_S = 0.004
"""Real time for bytes that are on their way between two sockets of this machine."""

P = ParamSpec("P")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """See the module's text. Starts at a time that is not zero, so that nobody relies on it."""

    def __init__(self) -> None:
        self._virtual_now = 1000.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self._virtual_now

    def jump(self, seconds: float) -> None:
        self._virtual_now += seconds


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        events = super().select(min(timeout, GRACE_S))
        if not events:
            self._loop.jump(timeout)
        return events


def in_virtual_time(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """Run an asynchronous test on such a loop. Its fixtures have to be synchronous."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with asyncio.Runner(debug=True, loop_factory=VirtualTimeLoop) as runner:
            runner.run(_without_leaks(test(*args, **kwargs)))

    return run


async def _without_leaks(test: Coroutine[None, None, None]) -> None:
    await test
    leaked = asyncio.all_tasks() - {asyncio.current_task()}
    assert not leaked, f"tasks left running: {sorted(task.get_name() for task in leaked)}"


def now() -> float:
    """The running loop's time, as a clock to inject."""
    return asyncio.get_running_loop().time()
