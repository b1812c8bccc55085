"""Runs all cases against a coordinator."""

from collections.abc import Collection
from typing import Final

from provider_agent.conformance.agent_peer import AgentPeer
from provider_agent.conformance.case import Case
from provider_agent.conformance.coordinator_under_test import (
    CoordinatorTarget,
    CoordinatorUnderTest,
)
from provider_agent.conformance.of_coordinator import (
    flow,
    handshake,
    jobs,
    messages,
    resumption,
    traffic,
)
from provider_agent.conformance.report import Report
from provider_agent.conformance.runner import run_at_once, run_case

CASES: Final[list[Case[CoordinatorUnderTest]]] = [
    *handshake.CASES,
    *messages.CASES,
    *jobs.CASES,
    *flow.CASES,
    *resumption.CASES,
]
CASE_IDS: Final = [case.id for case in (*CASES, *traffic.CASES)]


async def run_against_coordinator(target: CoordinatorTarget, only: Collection[str]) -> Report:
    """Run the cases with the given ids; all if there are none.

    Raises:
        OSError, websockets.exceptions.InvalidHandshake: the address is not a coordinator's.
        NotHeld: the coordinator does not admit the kit.
    """
    async with CoordinatorUnderTest(target) as probe:
        await probe.connect()
    peers: list[AgentPeer] = []

    def open_scope() -> CoordinatorUnderTest:
        return CoordinatorUnderTest(target, peers)

    chosen = [case for case in CASES if not only or case.id in only]
    results = await run_at_once(chosen, open_scope, target.answer_s)
    traffic_cases = [case for case in traffic.CASES if not only or case.id in only]
    results += [await run_case(case, peers) for case in traffic_cases]
    return Report("coordinator", target.url, results)
