"""Calls of adapters, which third parties write: what they may raise and return is checked here."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

import msgspec

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
    except SystemExit as error:
        raise AdapterDefect("the adapter raised SystemExit") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # As after `task.cancel()` of a task of its own: it says nothing about the caller's task.
        raise AdapterDefect("the adapter raised CancelledError, but was not cancelled") from error


def validated(value: object, expected: type[T]) -> T:
    """Return the value that an adapter returned, as the type that `Backend` declares.

    Adapters of third parties are not always type-checked, and Python does not check the types of a
    struct's fields when it is created.

    Raises:
        msgspec.ValidationError: the value, or a part of it, has another type.
    """
    return msgspec.convert(msgspec.to_builtins(value), expected)
