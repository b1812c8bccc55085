"""The conformance kit against our agent, and against the same one with planted faults."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from msgspec import Struct
from msgspec.structs import replace

from provider_agent.adapters.base import BackendSettings
from provider_agent.adapters.servers.echo import EchoBackend
from provider_agent.conformance.agent_run import CASE_IDS, run_against_agent
from provider_agent.conformance.agent_under_test import AgentListener
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
from tests.kit.altering_relay import Alter, AlteringRelay
from tests.kit.conformance_results import deviations
from tests.kit.planted_faults import change, drop, is_repeated, repeat
from tests.kit.running_agent import RunningAgent
from tests.kit.virtual_time import in_virtual_time

WAIT_S: Final = 60.0


class PlantedFault(Struct, frozen=True):
    """A fault of an agent, and the rule that it breaks.

    Attributes:
        case: the id of the case that finds it.
        to_coordinator: alters what the agent sends.
        to_agent: alters what it receives.
        close_codes: replaces its close codes.
        refuses_unknown_types: whether it closes with 1002 after a frame of an unknown type.
        signs_other_address: whether it signs an address that the coordinator does not have.
    """

    case: str
    to_coordinator: Alter | None = None
    to_agent: Alter | None = None
    close_codes: dict[int, int] = {}
    refuses_unknown_types: bool = False
    signs_other_address: bool = False


FAULTS: Final = {
    "signs another address": PlantedFault("hello", signs_other_address=True),
    "sends no Capabilities": PlantedFault(
        "capabilities-after-welcome", to_coordinator=drop(Capabilities)
    ),
    "sends no heartbeat": PlantedFault("heartbeat", to_coordinator=drop(Heartbeat)),
    "answers a second challenge": PlantedFault(
        "challenge-twice", to_agent=drop(Challenge, is_repeated())
    ),
    "accepts a small window": PlantedFault(
        "welcome-window", to_agent=change(Welcome, lambda _: {"window_bytes": 2**15})
    ),
    "closes with 1000 after a violation": PlantedFault("pieces-gap", close_codes={1002: 1000}),
    "closes after an unknown frame": PlantedFault(
        "message-frame-of-an-unknown-type", refuses_unknown_types=True
    ),
    "accepts a gap in a request": PlantedFault(
        "pieces-gap", to_agent=drop(RequestChunk, lambda chunk: chunk.offset == 11)
    ),
    "counts one byte too many": PlantedFault(
        "job", to_coordinator=change(JobResult, lambda f: {"total_bytes": f.total_bytes + 1})
    ),
    "sends JobStarted twice": PlantedFault("traffic-jobs", to_coordinator=repeat(JobStarted)),
    "sends the end twice": PlantedFault("cancel-late", to_coordinator=repeat(JobResult)),
    "sends more than the window": PlantedFault(
        "window", to_agent=change(Welcome, lambda f: {"window_bytes": 2 * f.window_bytes})
    ),
    "does not cancel": PlantedFault("cancel", to_agent=drop(Cancel)),
    "ends a cancelled job with another code": PlantedFault(
        "cancel-request",
        to_coordinator=change(JobError, lambda _: {"code": "internal"}),
    ),
    "accepts acknowledgements of unsent bytes": PlantedFault(
        "ack-beyond", to_agent=drop(Ack, lambda ack: not ack.final)
    ),
    "does not resume": PlantedFault(
        "resume-running", to_coordinator=change(Hello, lambda _: {"session_id": None})
    ),
    "forgets its live jobs": PlantedFault(
        "resume-zero", to_coordinator=change(Hello, lambda _: {"live_jobs": []})
    ),
    "does not report what has arrived of a request": PlantedFault(
        "resume-request",
        to_coordinator=change(
            Hello, lambda f: {"live_jobs": [replace(j, request_offset=0) for j in f.live_jobs]}
        ),
    ),
    "does not report that a job has ended": PlantedFault(
        "resume-ended",
        to_coordinator=change(
            Hello, lambda f: {"live_jobs": [replace(j, ended=False) for j in f.live_jobs]}
        ),
    ),
    "loses a byte": PlantedFault(
        "window-continues",
        to_coordinator=change(
            Chunk, lambda f: {"data": f.data[1:]}, lambda f: f.offset > 0 and len(f.data) > 1
        ),
    ),
    "ignores Drain": PlantedFault("drain", to_agent=drop(Drain)),
}


@asynccontextmanager
async def running_agent(fault: PlantedFault) -> AsyncIterator[AgentListener]:
    """The kit's listener, dialed by our agent through a relay that plants a fault."""
    options: dict[str, Any] = {
        "close_codes": fault.close_codes,
        "refuses_unknown_types": fault.refuses_unknown_types,
    }
    if fault.to_agent:
        options["to_agent"] = fault.to_agent
    if fault.to_coordinator:
        options["to_coordinator"] = fault.to_coordinator
    async with AlteringRelay(**options) as relay:
        authorities = [] if fault.signs_other_address else [relay.authority]
        async with AgentListener("127.0.0.1", 0, authorities) as listener:
            relay.target_url = listener.url
            async with dialing_agent(relay.url):
                yield listener


@asynccontextmanager
async def dialing_agent(url: str) -> AsyncIterator[RunningAgent]:
    """Our agent with the echo backend."""
    backend = EchoBackend(BackendSettings(kind="echo"))
    async with RunningAgent(None, backend, config=agent_config(url)) as agent:
        yield agent


@pytest.mark.timeout(180)  # most cases cost a connection, and both sides run here
@in_virtual_time
async def test_our_agent_conforms() -> None:
    async with AgentListener("127.0.0.1", 0) as listener, dialing_agent(listener.url):
        report = await run_against_agent(listener, (), wait_s=WAIT_S)

    assert deviations(report) == {}
    assert len(report.results) == len(CASE_IDS)


@pytest.mark.timeout(180)  # most cases cost a connection, and both sides run here
@in_virtual_time
async def test_a_relay_without_a_fault_changes_no_result() -> None:
    only = sorted({fault.case for fault in FAULTS.values()})
    async with running_agent(PlantedFault("none")) as listener:
        report = await run_against_agent(listener, only, wait_s=WAIT_S)

    assert deviations(report) == {}


@pytest.mark.parametrize("name", FAULTS)
@in_virtual_time
async def test_the_kit_finds_a_planted_fault(name: str) -> None:
    fault = FAULTS[name]
    async with running_agent(fault) as listener:
        report = await run_against_agent(listener, [fault.case, "job"], wait_s=WAIT_S)

    assert fault.case in deviations(report)
