"""Prepares requests that may take long in a thread, so that no request blocks the event loop.

Most requests take less than a millisecond, so their preparation begins in the event loop. Work that
finds out that it may take longer calls `require_thread`, and is started again in the thread.

One thread is enough: the work holds the GIL, so that more threads would only compete with the event
loop. A call into C keeps the GIL until it returns, so the work makes only calls that take a few
milliseconds at most.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from provider_agent.protocol.limits import KIB

INLINE_BYTES: Final = 512 * KIB
"""A request of this size takes at most a few milliseconds, unless the work requires the thread.
The thread would not be better: the event loop waits up to 5 ms for the GIL while another thread
runs (`sys.getswitchinterval`), and the change of threads costs more CPU time than most requests."""

_WORKER: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large requests")

ResultT = TypeVar("ResultT")


class _ThreadRequired(BaseException):
    """The work may take long. Not an `Exception`, which the work might handle."""


class _Caller(threading.local):
    """Whether the current thread is in `call`."""

    is_inline = False


_CALLER: Final = _Caller()


async def call(work: Callable[[], ResultT], request: bytes) -> ResultT:
    """Call a function, in the thread if the request that it handles may take long.

    Cancellation does not interrupt a call that has begun; its result is dropped.

    Args:
        work: the function; it must not use the event loop. It is called a second time if the first
            call ends in `require_thread`.
        request: the request.
    """
    if len(request) <= INLINE_BYTES:
        _CALLER.is_inline = True
        try:
            return work()
        except _ThreadRequired:
            pass
        finally:
            _CALLER.is_inline = False
    return await asyncio.get_running_loop().run_in_executor(_WORKER, work)


def require_thread() -> None:
    """Continue only in the thread; call it before work that takes over a few milliseconds.

    In the event loop it does not return: `call` starts the work again. Outside of `call` it does
    nothing.
    """
    if _CALLER.is_inline:
        raise _ThreadRequired
