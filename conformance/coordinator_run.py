"""Runs all cases against a coordinator."""

from collections.abc import Collection
from typing import Final

from provider_agent.conformance.agent_peer import AgentPeer
from provider_agent.conformance.case import Case, Result, Unreachable, Verdict
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
    usepod,
)
from provider_agent.conformance.of_coordinator.usepod_version_1 import VERSION_1
from provider_agent.conformance.report import Report
from provider_agent.conformance.runner import (
    Run,
    not_tested,
    run_at_once,
    run_case,
    with_traffic,
)
from provider_agent.protocol.limits import SUBPROTOCOL

CASES: Final[list[Case[CoordinatorUnderTest]]] = [
    *handshake.CASES,
    *messages.CASES,
    *jobs.CASES,
    *flow.CASES,
    *resumption.CASES,
]
TRAFFIC_CASES: Final = [*traffic.CASES]
CASE_IDS: Final = [case.id for case in (*CASES, *TRAFFIC_CASES)]

USEPOD_CASES: Final = [*usepod.CASES, *VERSION_1.choose(CASES)]
USEPOD_TRAFFIC_CASES: Final = VERSION_1.choose(TRAFFIC_CASES)
NOT_APPLICABLE: Final = VERSION_1.not_applicable(CASE_IDS)
"""The cases that do not apply to the dialect `usepod`, and why."""


def case_ids(dialect: str) -> list[str]:
    """Return the ids of the cases for coordinators of a dialect."""
    if dialect == SUBPROTOCOL:
        return CASE_IDS
    return [case.id for case in (*USEPOD_CASES, *USEPOD_TRAFFIC_CASES)]


async def run_against_coordinator(target: CoordinatorTarget, only: Collection[str]) -> Report:
    """Run the cases with the given ids; all cases if no id is given.

    If the given API for clients cannot be reached, no case runs, and the verdict of each is
    `NOT_TESTED`, because a wrong address says nothing about the coordinator.

    Raises:
        OSError, websockets.exceptions.InvalidHandshake: the address cannot be reached, or is not a
            coordinator's.
        NotHeld: the coordinator does not admit the kit.
    """
    peers: list[AgentPeer] = []

    async def run(case: Case[CoordinatorUnderTest]) -> Result:
        async with CoordinatorUnderTest(target, peers) as scope:
            result = await run_case(case, scope, target.answer_s)
            if result.verdict in (Verdict.NOT_HELD, Verdict.NOT_FOLLOWED):
                await scope.check_reachable()
            return result

    is_version_1 = target.dialect == SUBPROTOCOL
    cases = CASES if is_version_1 else USEPOD_CASES
    of_traffic = TRAFFIC_CASES if is_version_1 else USEPOD_TRAFFIC_CASES
    chosen = [case for case in cases if not only or case.id in only]
    traffic_cases = [case for case in of_traffic if not only or case.id in only]
    async with CoordinatorUnderTest(target) as probe:
        await probe.connect()
        try:
            await probe.check_submit_url()
            unreachable = ""
        except Unreachable as error:
            unreachable = str(error)
    if unreachable:
        tested = Run([not_tested(case, unreachable) for case in chosen], unreachable)
    else:
        tested = await run_at_once(chosen, run)
    whole = await with_traffic(tested, traffic_cases, peers)
    return Report(
        "coordinator", target.url, whole.results, whole.early_end_reason, dialect=target.dialect
    )
