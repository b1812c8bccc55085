"""Runs cases and collects their results."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, TypeVar

from websockets.exceptions import InvalidHandshake

from provider_agent.conformance.case import (
    MAX_OBSERVED_CHARS,
    Case,
    NotHeld,
    NotTested,
    Result,
    Verdict,
)
from provider_agent.conformance.peer import ANSWER_S

ScopeT = TypeVar("ScopeT")

SILENT_CASE_S: Final = 45.0
"""A case may take this long plus the time of one answer. The longest wait of a case, for a silent
connection to be closed, is 36 s plus one answer with the default heartbeat interval."""

AT_ONCE: Final = 8
"""How many cases for coordinators run at once: they are independent, and some mostly wait."""


async def run_case(case: Case[ScopeT], scope: ScopeT, answer_s: float = ANSWER_S) -> Result:
    """Run one case, whose answers may take `answer_s` seconds. Cancelling it yields no result."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    try:
        async with asyncio.timeout(SILENT_CASE_S + answer_s):
            verdict, observed = Verdict.HELD, await case.run(scope)
    except NotHeld as error:
        verdict, observed = Verdict.NOT_HELD if case.must else Verdict.NOT_FOLLOWED, str(error)
    except NotTested as error:
        verdict, observed = Verdict.NOT_TESTED, str(error)
    except (OSError, InvalidHandshake) as error:  # `TimeoutError` is an `OSError`
        verdict = Verdict.NOT_HELD if case.must else Verdict.NOT_FOLLOWED
        observed = f"no connection: {str(error) or type(error).__name__}"
    return Result(
        id=case.id,
        anchor=case.anchor,
        rule=case.rule,
        verdict=verdict,
        observed=observed[:MAX_OBSERVED_CHARS],
        duration_s=loop.time() - start,
    )


async def run_at_once(
    cases: Sequence[Case[ScopeT]],
    open_scope: Callable[[], AbstractAsyncContextManager[ScopeT]],
    answer_s: float,
) -> list[Result]:
    """Run independent cases, several at once; returns the results in the order of the cases."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def run(case: Case[ScopeT]) -> Result:
        async with slots, open_scope() as scope:
            return await run_case(case, scope, answer_s)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(case), name=f"case {case.id}") for case in cases]
    return [task.result() for task in tasks]


async def run_in_turn(
    cases: Iterable[Case[ScopeT]],
    open_scope: Callable[[], AbstractAsyncContextManager[ScopeT]],
    answer_s: float,
) -> AsyncIterator[Result]:
    """Run cases one after the other."""
    for case in cases:
        async with open_scope() as scope:
            result = await run_case(case, scope, answer_s)
        yield result
