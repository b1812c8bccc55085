"""The conformance kit against our coordinator, and against the same one with planted faults."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from msgspec import Struct
from msgspec.structs import replace

from provider_agent.conformance.coordinator_run import CASE_IDS, run_against_coordinator
from provider_agent.conformance.coordinator_under_test import CoordinatorTarget
from provider_agent.conformance.of_coordinator.handshake import OTHER_AUTHORITY
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings, ReceiptMode
from provider_agent.protocol.frames import (
    Ack,
    Cancel,
    Capabilities,
    Chunk,
    Draining,
    Hello,
    JobHeader,
    JobStarted,
    RequestChunk,
    ResumedJob,
    RoutingStatus,
    Welcome,
)
from tests.kit.altering_relay import Alter, AlteringRelay
from tests.kit.conformance_results import deviations
from tests.kit.planted_faults import change, drop, is_repeated
from tests.kit.virtual_time import in_virtual_time, now


class PlantedFault(Struct, frozen=True):
    """A fault of a coordinator, and the rule that it breaks.

    Attributes:
        case: the id of the case that finds it.
        to_agent: alters what the coordinator sends.
        to_coordinator: alters what it receives.
        close_codes: replaces its close codes.
        authorities: further addresses whose signatures it accepts.
        constant_nonce: whether all its random bytes are zero.
        selects_subprotocol: whether its upgrade selects the subprotocol.
        refuses_unknown_types: whether it closes with 1002 after a frame of an unknown type.
    """

    case: str
    to_agent: Alter | None = None
    to_coordinator: Alter | None = None
    close_codes: dict[int, int] = {}
    authorities: tuple[str, ...] = ()
    constant_nonce: bool = False
    selects_subprotocol: bool = True
    refuses_unknown_types: bool = False


FAULTS: Final = {
    "selects no subprotocol": PlantedFault("subprotocol", selects_subprotocol=False),
    "uses one nonce for all connections": PlantedFault("nonce-fresh", constant_nonce=True),
    "accepts the signature of another address": PlantedFault(
        "signature-authority", authorities=(OTHER_AUTHORITY,)
    ),
    "closes with 1011 after a violation": PlantedFault("second-hello", close_codes={1002: 1011}),
    "closes after an unknown frame": PlantedFault(
        "message-frame-of-an-unknown-type", refuses_unknown_types=True
    ),
    "does not acknowledge errors": PlantedFault(
        "final-ack", to_agent=drop(Ack, lambda ack: ack.final and not ack.offset)
    ),
    "acknowledges one byte too many": PlantedFault(
        "traffic-acks", to_agent=change(Ack, lambda ack: {"offset": ack.offset + 2**20})
    ),
    "changes the request": PlantedFault(
        "job", to_agent=change(RequestChunk, lambda f: {"data": f.data.replace(b" ", b"\t")})
    ),
    "changes the response": PlantedFault(
        "response", to_coordinator=change(Chunk, lambda f: {"data": f.data.lower()})
    ),
    "accepts a gap": PlantedFault(
        "chunk-gap", to_coordinator=change(Chunk, lambda _: {"offset": 0})
    ),
    "accepts a second JobStarted": PlantedFault(
        "started-twice", to_coordinator=drop(JobStarted, is_repeated())
    ),
    "accepts a chunk without data": PlantedFault(
        "chunk-empty", to_coordinator=drop(Chunk, lambda chunk: not chunk.data)
    ),
    "does not cancel": PlantedFault("cancel", to_agent=drop(Cancel)),
    "ignores Draining": PlantedFault("draining-agent", to_coordinator=drop(Draining)),
    "ignores smaller Capabilities": PlantedFault(
        "offered-models", to_coordinator=drop(Capabilities, lambda f: not f.models)
    ),
    "resumes each job from 0": PlantedFault(
        "resume-part-running",
        to_agent=change(
            Welcome, lambda f: {"resumed": [ResumedJob(r.job_id, 0) for r in f.resumed]}
        ),
    ),
    "sends the whole request again": PlantedFault(
        "resume-request",
        to_coordinator=change(
            Hello, lambda f: {"live_jobs": [replace(j, request_offset=0) for j in f.live_jobs]}
        ),
    ),
    "uses a new id for a repeated job": PlantedFault(
        "resume-nothing-unknown",
        to_agent=change(JobHeader, lambda _: {"job_id": bytes(16)}, is_repeated()),
    ),
    "sends no RoutingStatus": PlantedFault("routing-status", to_agent=drop(RoutingStatus)),
}


@asynccontextmanager
async def running_coordinator(fault: PlantedFault) -> AsyncIterator[CoordinatorTarget]:
    """Our coordinator behind a relay that plants a fault."""
    options: dict[str, Any] = {
        "close_codes": fault.close_codes,
        "selects_subprotocol": fault.selects_subprotocol,
        "refuses_unknown_types": fault.refuses_unknown_types,
    }
    if fault.to_agent:
        options["to_agent"] = fault.to_agent
    if fault.to_coordinator:
        options["to_coordinator"] = fault.to_coordinator
    async with AlteringRelay(**options) as relay:
        settings = CoordinatorSettings(
            port=0, drain_s=0, authorities=(relay.authority, *fault.authorities)
        )
        random: dict[str, Any] = {"random_bytes": bytes} if fault.constant_nonce else {}
        async with Coordinator(settings, clock=now, **random) as coordinator:
            relay.target_url = coordinator.connect_url
            yield CoordinatorTarget(relay.url, coordinator.http_url)


@in_virtual_time
async def test_our_coordinator_conforms() -> None:
    settings = CoordinatorSettings(port=0, drain_s=0, receipts=ReceiptMode.HASH)
    async with Coordinator(settings, clock=now) as coordinator:
        target = CoordinatorTarget(coordinator.connect_url, coordinator.http_url)
        report = await run_against_coordinator(target, ())

    assert deviations(report) == {}
    assert len(report.results) == len(CASE_IDS)


@in_virtual_time
async def test_a_relay_without_a_fault_changes_no_result() -> None:
    only = sorted({fault.case for fault in FAULTS.values()})
    async with running_coordinator(PlantedFault("none")) as target:
        report = await run_against_coordinator(target, only)

    assert deviations(report) == {}


@pytest.mark.parametrize("name", FAULTS)
@in_virtual_time
async def test_the_kit_finds_a_planted_fault(name: str) -> None:
    fault = FAULTS[name]
    async with running_coordinator(fault) as target:
        report = await run_against_coordinator(target, [fault.case, "ack-early"])

    assert fault.case in deviations(report)
