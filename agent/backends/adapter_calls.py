"""Calls of adapters, which third parties write: what they may raise and return is checked here."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn, ParamSpec, TypeVar

import msgspec

from provider_agent.adapters.base import Backend
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)

CANCEL_S: Final = 5.0
"""Seconds that a cancelled method may take to close its connections, before it is abandoned."""

P = ParamSpec("P")
T = TypeVar("T")


class AdapterDefect(Exception):
    """An adapter raised an exception that would have ended the task, or the process."""


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
        raise_defect(error)


def raise_defect(error: SystemExit | asyncio.CancelledError) -> NoReturn:
    """Raise what an exception of an adapter's method means for the current task.

    Raises:
        CancelledError: the task was cancelled.
        AdapterDefect: the method raised `SystemExit`, or `CancelledError` without a cancellation.
    """
    if isinstance(error, SystemExit):
        raise AdapterDefect("the adapter raised SystemExit") from error
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise error
    # As after `task.cancel()` of a task of the adapter; the caller's task was not cancelled.
    raise AdapterDefect("the adapter raised CancelledError, but was not cancelled") from error


async def call_within(
    limit_s: float,
    backend: Backend,
    method: Callable[P, Awaitable[T]],
    /,
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Await a method of a backend for at most `limit_s`, even if it ignores its cancellation.

    Cancelling this coroutine cancels the method, and waits for it for at most `CANCEL_S`.

    Raises:
        TimeoutError: the method did not return in time.
        Exception: as `call_adapter`.
    """
    task = asyncio.create_task(call_adapter(method, *args, **kwargs), name="call of an adapter")
    try:
        done, _ = await asyncio.wait({task}, timeout=limit_s)
    finally:
        if not task.done():
            task.cancel()
            _, ignoring = await asyncio.wait({task}, timeout=CANCEL_S)
            if ignoring:
                log.error("adapter ignored cancellation", backend=backend.id)
            elif not task.cancelled():
                task.exception()  # retrieves it, so that asyncio does not log it
    if not done:
        raise TimeoutError
    return task.result()


def validated(value: object, expected: type[T]) -> T:
    """Return the value that an adapter returned, as the type that `Backend` declares.

    Adapters of third parties are not always type-checked, and Python does not check the types of a
    struct's fields when it is created.

    Raises:
        msgspec.ValidationError: the value, or a part of it, has another type.
    """
    return msgspec.convert(msgspec.to_builtins(value), expected)
