"""Prepares requests that may take long in a thread, so that no request blocks the event loop.

One thread is enough: the work holds the GIL, so that more threads would only compete with the event
loop. A call into C keeps the GIL until it returns, so the work makes only calls that take a few
milliseconds at most.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from provider_agent.protocol.limits import KIB

INLINE_BYTES: Final = 32 * KIB
"""A request of this size takes at most a few milliseconds, unless it has a grammar or schema."""

_WORDS: Final = (b'tools"', b'schema"', b'format"', b'"guided', b'"structured', b"::=", b"\\u00")
"""Every request with a grammar or schema, whose analysis may take longer, has one of these: the
ends and starts of names of fields, and GBNF. `\\u00` may begin an escaped letter of another one."""

_WORKER: Final = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large requests")

ResultT = TypeVar("ResultT")


async def call(work: Callable[[], ResultT], request: bytes) -> ResultT:
    """Call a function, in the thread if the request that it handles may take long.

    Cancellation does not interrupt a call that has begun; its result is dropped.

    Args:
        work: the function; it must not use the event loop.
        request: the request.
    """
    if len(request) <= INLINE_BYTES and not any(word in request for word in _WORDS):
        return work()
    return await asyncio.get_running_loop().run_in_executor(_WORKER, work)
