"""Calls methods of adapters, which third parties may write, and checks their errors and results."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, ParamSpec, TypeVar

import msgspec

from provider_agent.adapters.base import Backend
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)

CANCEL_S: Final = 5.0
"""Seconds that a cancelled method may take to close its connections, before it is abandoned."""

P = ParamSpec("P")
T = TypeVar("T")


class AdapterDefect(Exception):
    """An adapter raised `SystemExit`, or `CancelledError` without a cancellation.

    `SystemExit` would end the agent's process, and `CancelledError` the task that called the
    adapter.
    """


async def call_adapter(
    method: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
) -> T:
    """Await a method of a backend.

    Cancelling this coroutine cancels the method.

    Raises:
        AdapterDefect: the method raised `SystemExit`, or `CancelledError` without a cancellation.
        Exception: whatever else the method raises.
    """
    try:
        return await method(*args, **kwargs)
    except (SystemExit, asyncio.CancelledError) as error:
        raise_if_defect(error)
        raise


def raise_if_defect(error: SystemExit | asyncio.CancelledError) -> None:
    """Check an exception of an adapter's method; return if the current task was cancelled.

    After the return, the caller raises `error` again. If this function raised it, its frame and the
    exception would refer to each other, and keep the job's request in memory until the next cyclic
    garbage collection.

    Raises:
        AdapterDefect: the method raised `SystemExit`, or `CancelledError` without a cancellation.
    """
    if isinstance(error, SystemExit):
        raise AdapterDefect("the adapter raised SystemExit") from error
    task = asyncio.current_task()
    if task is not None and not task.cancelling():
        # For example, the adapter awaited a task of its own that it had cancelled.
        raise AdapterDefect("the adapter raised CancelledError, but was not cancelled") from error


async def call_within(
    limit_s: float,
    backend: Backend,
    method: Callable[P, Awaitable[T]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Await a method of a backend for at most `limit_s`, then cancel it.

    A cancelled method has `CANCEL_S` to end, then it is abandoned. Cancelling this coroutine
    cancels the method in the same way.

    Raises:
        TimeoutError: the method did not return in time.
        Exception: as `call_adapter`.
    """
    task = asyncio.create_task(call_adapter(method, *args, **kwargs), name="call of an adapter")
    task.add_done_callback(_retrieve_exception)
    try:
        done, _ = await asyncio.wait({task}, timeout=limit_s)
    finally:
        if not task.done():
            task.cancel()
            _, ignoring = await asyncio.wait({task}, timeout=CANCEL_S)
            if ignoring:
                log.error("adapter ignored cancellation", backend=backend.id)
    if not done:
        raise TimeoutError
    return task.result()


def _retrieve_exception(task: asyncio.Task[object]) -> None:
    """Retrieve the exception of a finished call.

    Otherwise asyncio would log it if the caller was cancelled and did not retrieve it.
    """
    if not task.cancelled():
        task.exception()


def validated(value: object, expected: type[T]) -> T:
    """Return the value that an adapter returned, as the type that `Backend` declares.

    Adapters of third parties are not always type-checked, and Python does not check the types of a
    struct's fields when it is created.

    Raises:
        msgspec.ValidationError: the value, or a part of it, has another type.
    """
    return msgspec.convert(msgspec.to_builtins(value), expected)
