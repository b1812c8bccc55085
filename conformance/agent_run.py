"""Runs all cases against an agent."""

from collections.abc import Collection
from itertools import chain, zip_longest
from typing import Final

from provider_agent.conformance.agent_under_test import AgentListener, AgentUnderTest
from provider_agent.conformance.case import Case, Result, Verdict
from provider_agent.conformance.of_agent import (
    flow,
    handshake,
    jobs,
    messages,
    resumption,
    traffic,
    usepod,
)
from provider_agent.conformance.report import Report
from provider_agent.conformance.runner import run_case, run_in_turn, with_traffic
from provider_agent.protocol.limits import SUBPROTOCOL

_OPEN: Final = [
    *handshake.CASES,
    *messages.CASES,
    *jobs.CASES,
    *flow.CASES,
    *resumption.CASES,
]
"""Cases after which the agent is connected, on the same connection or on a new one."""

_CLOSING: Final = [
    *handshake.OPEN_VIOLATIONS,
    *messages.CLOSING,
    *jobs.CLOSING,
    *flow.CLOSING,
    *resumption.CLOSING,
]
"""Cases that end their connection."""

_ALTERNATING: Final = chain.from_iterable(zip_longest(_CLOSING, handshake.NEW_CONNECTION))
"""Cases that end their connection, alternating with cases that need a new connection. One
reconnection of the agent, which may take seconds because of its backoff, then serves two cases."""

CASES: Final[list[Case[AgentUnderTest]]] = [
    *_OPEN,
    *(case for case in _ALTERNATING if case is not None),
]
TRAFFIC_CASES: Final = [*traffic.CASES]
CASE_IDS: Final = [case.id for case in (*CASES, *traffic.CASES)]

USEPOD_CASES: Final = [*usepod.CASES, *usepod.VERSION_1.choose(CASES)]
USEPOD_TRAFFIC_CASES: Final = usepod.VERSION_1.choose(TRAFFIC_CASES)
NOT_APPLICABLE: Final = usepod.VERSION_1.not_applicable(CASE_IDS)
"""The cases that do not apply to the dialect `usepod`, and why."""


def case_ids(dialect: str) -> list[str]:
    """Return the ids of the cases for agents of a dialect."""
    if dialect == SUBPROTOCOL:
        return CASE_IDS
    return [case.id for case in (*USEPOD_CASES, *USEPOD_TRAFFIC_CASES)]


async def run_against_agent(
    listener: AgentListener, only: Collection[str], *, wait_s: float
) -> Report:
    """Wait for the agent, and run the cases with the given ids; all cases if no id is given.

    Raises:
        NotHeld: no agent connects within `wait_s`.
    """
    await listener.wait_for_agent(wait_s)
    is_version_1 = listener.dialect == SUBPROTOCOL
    chosen = [
        case for case in (CASES if is_version_1 else USEPOD_CASES) if not only or case.id in only
    ]

    async def run(case: Case[AgentUnderTest]) -> Result:
        async with AgentUnderTest(listener) as scope:
            result = await run_case(case, scope, listener.answer_s)
            if result.verdict in (Verdict.NOT_HELD, Verdict.NOT_FOLLOWED):
                await scope.close_connections()
            return result

    traffic_cases = [
        case
        for case in (TRAFFIC_CASES if is_version_1 else USEPOD_TRAFFIC_CASES)
        if not only or case.id in only
    ]
    whole = await with_traffic(await run_in_turn(chosen, run), traffic_cases, listener.peers)
    return Report(
        "agent", listener.url, whole.results, whole.early_end_reason, dialect=listener.dialect
    )
