"""Runs the conformance kit against our agent, alone and behind a relay that adds faults."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest
from msgspec.structs import replace

from provider_agent.adapters.base import BackendSettings
from provider_agent.adapters.servers.echo import EchoBackend
from provider_agent.conformance.agent_run import CASE_IDS, run_against_agent
from provider_agent.conformance.agent_under_test import GOING_AWAY, RECONNECT_S, AgentListener
from provider_agent.conformance.case import Verdict
from provider_agent.protocol.frames import (
    Ack,
    Cancel,
    Capabilities,
    Challenge,
    Chunk,
    Drain,
    Heartbeat,
    Hello,
    JobError,
    JobResult,
    JobStarted,
    RequestChunk,
    Welcome,
)
from tests.kit.agent_config import agent_config
from tests.kit.conformance_results import broken, deviations
from tests.kit.coordinator_harness import wait_until
from tests.kit.planted_faults import PlantedFault, change, drop, is_repeated, repeat
from tests.kit.running_agent import RunningAgent
from tests.kit.virtual_time import in_virtual_time, now

WAIT_S: Final = 60.0


class AgentFault(PlantedFault, frozen=True, kw_only=True):
    """A fault of an agent.

    Attributes:
        signs_other_address: whether the signed address is not one of the coordinator's.
    """

    signs_other_address: bool = False


FAULTS: Final = {
    "signs another address": AgentFault("hello", signs_other_address=True),
    "sends no Capabilities": AgentFault(
        "capabilities-after-welcome", to_coordinator=drop(Capabilities)
    ),
    "sends no heartbeat": AgentFault("heartbeat", to_coordinator=drop(Heartbeat)),
    "ignores a second challenge": AgentFault(
        "challenge-twice", to_agent=drop(Challenge, is_repeated())
    ),
    "accepts a small window": AgentFault(
        "welcome-window", to_agent=change(Welcome, lambda _: {"window_bytes": 2**15})
    ),
    "closes with 1000 after a violation": AgentFault("pieces-gap", close_codes={1002: 1000}),
    "closes after an unknown frame": AgentFault(
        "message-frame-of-an-unknown-type", refuses_unknown_types=True
    ),
    "accepts a gap in a request": AgentFault(
        "pieces-gap", to_agent=drop(RequestChunk, lambda chunk: chunk.offset == 11)
    ),
    "counts one byte too many": AgentFault(
        "job",
        to_coordinator=change(JobResult, lambda f: {"total_bytes": f.total_bytes + 1}),
        to_agent=change(Ack, lambda f: {"offset": f.offset - 1}, lambda f: f.final),
    ),
    "sends JobStarted twice": AgentFault("traffic-jobs", to_coordinator=repeat(JobStarted)),
    "sends the end twice": AgentFault("cancel-late", to_coordinator=repeat(JobResult)),
    "sends more than the window": AgentFault(
        "window", to_agent=change(Welcome, lambda f: {"window_bytes": 2 * f.window_bytes})
    ),
    "does not cancel": AgentFault("cancel", to_agent=drop(Cancel)),
    "ends a cancelled job with another code": AgentFault(
        "cancel-request",
        to_coordinator=change(JobError, lambda _: {"code": "internal"}),
    ),
    "accepts acknowledgements of unsent bytes": AgentFault(
        "ack-beyond", to_agent=drop(Ack, lambda ack: not ack.final)
    ),
    "does not resume": AgentFault(
        "resume-running", to_coordinator=change(Hello, lambda _: {"session_id": None})
    ),
    "forgets its live jobs": AgentFault(
        "resume-zero", to_coordinator=change(Hello, lambda _: {"live_jobs": []})
    ),
    "does not report what has arrived of a request": AgentFault(
        "resume-request",
        to_coordinator=change(
            Hello, lambda f: {"live_jobs": [replace(j, request_offset=0) for j in f.live_jobs]}
        ),
    ),
    "does not report that a job has ended": AgentFault(
        "resume-ended",
        to_coordinator=change(
            Hello, lambda f: {"live_jobs": [replace(j, ended=False) for j in f.live_jobs]}
        ),
    ),
    "loses a byte": AgentFault(
        "window-continues",
        to_coordinator=change(
            Chunk, lambda f: {"data": f.data[1:]}, lambda f: f.offset > 0 and len(f.data) > 1
        ),
    ),
    "ignores Drain": AgentFault("drain", to_agent=drop(Drain)),
}


@asynccontextmanager
async def running_agent(fault: AgentFault) -> AsyncIterator[AgentListener]:
    """Run the kit's listener, and our agent behind a relay that adds a fault."""
    async with fault.relay() as relay:
        authorities = [] if fault.signs_other_address else [relay.authority]
        async with AgentListener("127.0.0.1", 0, authorities) as listener:
            relay.target_url = listener.url
            async with dialing_agent(relay.url):
                yield listener


@asynccontextmanager
async def dialing_agent(url: str) -> AsyncIterator[RunningAgent]:
    """Run our agent with the echo backend."""
    backend = EchoBackend(BackendSettings(kind="echo"))
    async with RunningAgent(None, backend, config=agent_config(url)) as agent:
        yield agent


@pytest.mark.timeout(180)  # most cases open a connection, and both sides run here
@in_virtual_time
async def test_our_agent_conforms() -> None:
    async with AgentListener("127.0.0.1", 0) as listener, dialing_agent(listener.url):
        report = await run_against_agent(listener, (), wait_s=WAIT_S)

    assert deviations(report) == {}
    assert len(report.results) == len(CASE_IDS)


@pytest.mark.timeout(180)  # most cases open a connection, and both sides run here
@in_virtual_time
async def test_a_relay_without_a_fault_changes_no_result() -> None:
    only = sorted({fault.case for fault in FAULTS.values()})
    async with running_agent(AgentFault("none")) as listener:
        report = await run_against_agent(listener, only, wait_s=WAIT_S)

    assert deviations(report) == {}


@pytest.mark.parametrize("name", FAULTS)
@in_virtual_time
async def test_the_kit_finds_a_planted_fault(name: str) -> None:
    fault = FAULTS[name]
    async with running_agent(fault) as listener:
        report = await run_against_agent(listener, [fault.case, "job"], wait_s=WAIT_S)

    assert fault.case in broken(report)


@in_virtual_time
async def test_the_connections_of_a_failed_case_are_closed() -> None:
    # Before the fix, the kit did not close the failed case's connection, on which it had not sent
    # `Welcome`. The next case then waited for the agent to dial again, which an agent without a
    # handshake timeout never does.
    only = ["resume-running", "resume-zero", "drain"]
    async with running_agent(FAULTS["does not resume"]) as listener:
        report = await run_against_agent(listener, only, wait_s=WAIT_S)
        close_codes = [peer.close_code for peer in listener.peers if not peer.admitted]

    assert report.early_end_reason == ""
    assert broken(report) == dict.fromkeys(only[:2], "Hello names another session")
    assert close_codes == [GOING_AWAY] * 2, "closed by the kit"


@in_virtual_time
async def test_a_run_ends_when_the_agent_does_not_reconnect() -> None:
    async with AgentListener("127.0.0.1", 0) as listener, dialing_agent(listener.url) as agent:
        running = asyncio.create_task(run_against_agent(listener, (), wait_s=WAIT_S))
        await wait_until(lambda: any(peer.admitted for peer in listener.peers))
        agent.task.cancel()
        died = now()
        report = await running

    assert report.early_end_reason == "the agent did not reconnect within 20 s"
    untested = [result for result in report.results if result.verdict is Verdict.NOT_TESTED]
    assert {result.observed for result in untested} == {report.early_end_reason}
    assert len(broken(report)) <= 1, "only the case in which the agent died"
    assert len(untested) > len(CASE_IDS) // 2
    assert report.results[-len(untested) :] == untested
    assert len(report.results) == len(CASE_IDS)
    assert now() - died < 2 * RECONNECT_S, "the kit waited for only one reconnection"
