"""Runs cases and collects their results."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeVar

from msgspec import Struct
from websockets.exceptions import InvalidHandshake

from provider_agent.conformance.case import (
    MAX_OBSERVED_CHARS,
    Case,
    NotHeld,
    NotTested,
    Result,
    Unreachable,
    Verdict,
)
from provider_agent.conformance.failed_connection import describe
from provider_agent.conformance.peer import ANSWER_S

ScopeT = TypeVar("ScopeT")

SILENT_CASE_S: Final = 45.0
"""A case may take this long plus the time of one answer. The longest wait of a case is the one for
a silent connection to be closed: with the default heartbeat interval, 36 s plus one answer."""

AT_ONCE: Final = 8
"""How many cases for coordinators run at once: they are independent, and some mostly wait."""


async def run_case(case: Case[ScopeT], scope: ScopeT, answer_s: float = ANSWER_S) -> Result:
    """Run one case, whose answers may take `answer_s` seconds.

    Cancelling it yields no result.

    Raises:
        Unreachable: the implementation can no longer be reached.
    """
    loop = asyncio.get_running_loop()
    start = loop.time()
    violated = Verdict.NOT_HELD if case.must else Verdict.NOT_FOLLOWED
    limit = asyncio.timeout(SILENT_CASE_S + answer_s)
    try:
        async with limit:
            verdict, observed = Verdict.HELD, await case.run(scope)
    except NotHeld as error:
        verdict, observed = violated, str(error)
    except NotTested as error:
        verdict, observed = Verdict.NOT_TESTED, str(error)
    except (OSError, InvalidHandshake) as error:
        verdict, observed = violated, f"no connection: {describe(error)}"
        if limit.expired():  # otherwise, a `TimeoutError` is from an opening handshake
            observed = f"the case did not end within {SILENT_CASE_S + answer_s:g} s"
    return Result(
        id=case.id,
        anchor=case.anchor,
        rule=case.rule,
        verdict=verdict,
        observed=observed[:MAX_OBSERVED_CHARS],
        duration_s=loop.time() - start,
    )


class Run(Struct, frozen=True):
    """The results of some cases.

    Attributes:
        results: one for each case, in their order.
        early_end_reason: why the run ended before its last case; "" if it did not.
    """

    results: list[Result]
    early_end_reason: str = ""


async def run_at_once(
    cases: Sequence[Case[ScopeT]], run: Callable[[Case[ScopeT]], Awaitable[Result]]
) -> Run:
    """Run independent cases, several at once.

    When `run` raises `Unreachable`, the cases that have no result yet are cancelled and not tested.
    """
    slots = asyncio.Semaphore(AT_ONCE)

    async def run_one(case: Case[ScopeT]) -> Result:
        async with slots:
            return await run(case)

    tasks = [asyncio.create_task(run_one(case), name=f"case {case.id}") for case in cases]
    try:
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception) and not isinstance(outcome, Unreachable):
            raise outcome
    early_end_reason = next(
        (str(outcome) for outcome in outcomes if isinstance(outcome, Unreachable)), ""
    )
    results = [
        outcome if isinstance(outcome, Result) else not_tested(case, early_end_reason)
        for case, outcome in zip(cases, outcomes, strict=True)
    ]
    return Run(results, early_end_reason)


async def run_in_turn(
    cases: Iterable[Case[ScopeT]], run: Callable[[Case[ScopeT]], Awaitable[Result]]
) -> Run:
    """Run cases one after the other.

    When `run` raises `Unreachable`, its case and the later ones are not tested.
    """
    results: list[Result] = []
    early_end_reason = ""
    for case in cases:
        if not early_end_reason:
            try:
                results.append(await run(case))
                continue
            except Unreachable as error:
                early_end_reason = str(error)
        results.append(not_tested(case, early_end_reason))
    return Run(results, early_end_reason)


async def with_traffic(run: Run, traffic_cases: Iterable[Case[ScopeT]], scope: ScopeT) -> Run:
    """Run the cases about all frames of the run too, and add their results.

    After an early end they are not tested.
    """
    results = [
        not_tested(case, run.early_end_reason)
        if run.early_end_reason
        else await run_case(case, scope)
        for case in traffic_cases
    ]
    return Run([*run.results, *results], run.early_end_reason)


def not_tested(case: Case[ScopeT], reason: str) -> Result:
    """The result of a case that did not run, or not to its end."""
    return Result(case.id, case.anchor, case.rule, Verdict.NOT_TESTED, reason, duration_s=0.0)
