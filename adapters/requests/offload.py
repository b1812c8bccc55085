"""Prepares large requests in a thread, so that no request blocks the event loop.

One thread is enough: the work holds the GIL, so that more threads would only compete with the event
loop. A call into C keeps the GIL until it returns, so the work makes only calls that take a few
milliseconds at most.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from provider_agent.protocol.limits import KIB

INLINE_BYTES: Final = 4 * KIB
"""A request of this size takes less than 20 ms, whatever it contains; most take less than 1 ms."""

_WORKER: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large requests")

ResultT = TypeVar("ResultT")


async def call(work: Callable[[], ResultT], size: int) -> ResultT:
    """Call a function, in the thread if the request that it handles is large.

    Cancellation does not interrupt a call that has begun; its result is dropped.

    Args:
        work: the function; it must not use the event loop.
        size: bytes of the request.
    """
    if size <= INLINE_BYTES:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_WORKER, work)
