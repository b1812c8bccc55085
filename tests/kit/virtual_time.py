"""An event loop with a virtual clock: instead of waiting for a timer, it moves the clock forward.

Sockets are real. The clock stands still while the process works, while a thread works for
`run_in_executor` (`asyncio.to_thread` and `getaddrinfo` use it), and while the kernel moves bytes
between two sockets of this process (`TrafficInspector` checks that). So everything that needs no
timer happens before the next timer, however slow the machine is.

The clock does not stand still for other processes, or for threads that a test starts itself. The
loop refuses to start a process.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, Never, ParamSpec, TypeVar, TypeVarTuple

from tests.kit.kernel_sockets import TrafficInspector, is_supported

POLL_S = (0.001, 0.01)
"""Real time between two checks while a thread or the kernel is busy: at first, and at most."""

SILENCE_S = 0.05
"""Real time without an event before the clock jumps, where `TrafficInspector` is not supported."""

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop with a virtual clock, which starts at 1000 s so that no test relies on zero."""

    def __init__(self) -> None:
        self._virtual_now = 1000.0
        self._executor_jobs: set[asyncio.Future[Any]] = set()
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self._virtual_now

    def jump(self, seconds: float) -> None:
        """Move the clock forward."""
        self._virtual_now += seconds

    @property
    def held(self) -> bool:
        """Whether a thread still works for `run_in_executor`."""
        return bool(self._executor_jobs)

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        job = super().run_in_executor(executor, func, *args)
        self._executor_jobs.add(job)
        job.add_done_callback(self._executor_jobs.discard)
        return job

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the threads without Python 3.12's timeout, which would pass at once."""
        await super().shutdown_default_executor()

    async def _make_subprocess_transport(self, *_args: object, **_settings: object) -> Never:
        raise NotImplementedError("a subprocess runs in real time; use a loop in real time")


class _JumpingSelector(selectors.DefaultSelector):
    """Advances the loop's clock instead of waiting for a timer."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop
        self._traffic = TrafficInspector() if is_supported() else None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        pause_s, longest_s = POLL_S
        while True:
            if events := super().select(0):
                return events
            if self._idle():
                # The kernel may have finished after the first `select`.
                if events := super().select(0):
                    return events
                self._loop.jump(timeout)
                return []
            super().select(pause_s)
            pause_s = min(2 * pause_s, longest_s)

    def _idle(self) -> bool:
        if self._loop.held:
            return False
        if self._traffic is None:
            return not super().select(SILENCE_S)
        return self._traffic.idle(self.get_map().values())


def in_virtual_time(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """Run an asynchronous test on a `VirtualTimeLoop`. Its fixtures have to be synchronous."""

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
    """Return the running loop's time; tests pass this function where code expects a clock."""
    return asyncio.get_running_loop().time()
