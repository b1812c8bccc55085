"""How the result of a case reports timeouts."""

import asyncio

from provider_agent.conformance.case import Case, Result, Verdict
from provider_agent.conformance.runner import SILENT_CASE_S, run_case
from tests.kit.virtual_time import in_virtual_time


async def waits_for_ever(_scope: None) -> str:
    await asyncio.Event().wait()
    return "ended"


async def has_no_handshake(_scope: None) -> str:
    raise TimeoutError("timed out during opening handshake")


async def result_of(case: Case[None]) -> Result:
    return await run_case(case, None, answer_s=5.0)


@in_virtual_time
async def test_case_without_an_end_is_stopped() -> None:
    result = await result_of(Case("a", "limits", "A rule.", waits_for_ever, must=True))
    assert result.verdict is Verdict.NOT_HELD
    assert result.observed == f"the case did not end within {SILENT_CASE_S + 5:g} s"


@in_virtual_time
async def test_handshake_timeout_is_reported_as_no_connection() -> None:
    # It was reported as a case that did not end within 50 s.
    result = await result_of(Case("a", "limits", "A rule.", has_no_handshake, must=False))
    assert result.verdict is Verdict.NOT_FOLLOWED
    assert result.observed == "no connection: timed out during opening handshake"
