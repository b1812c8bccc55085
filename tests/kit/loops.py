"""Runs tests on both event loops that the agent supports: asyncio's and uvloop's."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import ParamSpec

import pytest
import uvloop

P = ParamSpec("P")


def on_both_loops(test: Callable[P, Coroutine[None, None, None]]) -> Callable[..., None]:
    """Run an async test once on each loop. Its fixtures have to be synchronous."""

    @functools.wraps(test)
    def run(
        loop_factory: Callable[[], asyncio.AbstractEventLoop], *args: P.args, **kwargs: P.kwargs
    ) -> None:
        with asyncio.Runner(debug=True, loop_factory=loop_factory) as runner:
            runner.run(test(*args, **kwargs))

    # pytest reads the names of fixtures and parameters from the signature.
    first = inspect.Parameter("loop_factory", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    others = inspect.signature(test).parameters.values()
    run.__signature__ = inspect.Signature([first, *others])  # type: ignore[attr-defined]
    mark = pytest.mark.parametrize(
        "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
    )
    return mark(run)
