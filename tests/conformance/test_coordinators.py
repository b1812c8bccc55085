"""Runs the conformance kit against our coordinator, alone and behind a relay that adds faults."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from http import HTTPStatus
from typing import Any, Final

import pytest
from msgspec.structs import replace
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from provider_agent.conformance.case import Unreachable
from provider_agent.conformance.coordinator_run import CASE_IDS, run_against_coordinator
from provider_agent.conformance.coordinator_under_test import (
    CoordinatorTarget,
    CoordinatorUnderTest,
)
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
from tests.kit.conformance_results import broken, deviations
from tests.kit.planted_faults import PlantedFault, change, drop, is_repeated
from tests.kit.virtual_time import in_virtual_time, now


class CoordinatorFault(PlantedFault, frozen=True, kw_only=True):
    """A fault of a coordinator.

    Attributes:
        authorities: other addresses that the coordinator accepts in signatures.
        constant_nonce: whether all random bytes of the coordinator are zero.
    """

    authorities: tuple[str, ...] = ()
    constant_nonce: bool = False


FAULTS: Final = {
    "selects no subprotocol": CoordinatorFault("subprotocol", selects_subprotocol=False),
    "uses one nonce for all connections": CoordinatorFault("nonce-fresh", constant_nonce=True),
    "accepts a signature over another address": CoordinatorFault(
        "signature-authority", authorities=(OTHER_AUTHORITY,)
    ),
    "closes with 1011 after a violation": CoordinatorFault(
        "second-hello", close_codes={1002: 1011}
    ),
    "closes after an unknown frame": CoordinatorFault(
        "message-frame-of-an-unknown-type", refuses_unknown_types=True
    ),
    "does not acknowledge errors": CoordinatorFault(
        "final-ack", to_agent=drop(Ack, lambda ack: ack.final and not ack.offset)
    ),
    "acknowledges one byte too many": CoordinatorFault(
        "traffic-acks", to_agent=change(Ack, lambda ack: {"offset": ack.offset + 2**20})
    ),
    "acknowledges an end with another offset": CoordinatorFault(
        "traffic-acks",
        to_agent=change(Ack, lambda ack: {"offset": ack.offset + 1}, lambda ack: ack.final),
    ),
    "changes the request": CoordinatorFault(
        "job", to_agent=change(RequestChunk, lambda f: {"data": f.data.replace(b" ", b"\t")})
    ),
    "changes the response": CoordinatorFault(
        "response", to_coordinator=change(Chunk, lambda f: {"data": f.data.lower()})
    ),
    "accepts a gap": CoordinatorFault(
        "chunk-gap", to_coordinator=change(Chunk, lambda _: {"offset": 0})
    ),
    "accepts a second JobStarted": CoordinatorFault(
        "started-twice", to_coordinator=drop(JobStarted, is_repeated())
    ),
    "accepts a chunk without data": CoordinatorFault(
        "chunk-empty", to_coordinator=drop(Chunk, lambda chunk: not chunk.data)
    ),
    "does not cancel": CoordinatorFault("cancel", to_agent=drop(Cancel)),
    "ignores Draining": CoordinatorFault("draining-agent", to_coordinator=drop(Draining)),
    "ignores Capabilities without models": CoordinatorFault(
        "offered-models", to_coordinator=drop(Capabilities, lambda f: not f.models)
    ),
    "resumes each job from 0": CoordinatorFault(
        "resume-part-running",
        to_agent=change(
            Welcome, lambda f: {"resumed": [ResumedJob(r.job_id, 0) for r in f.resumed]}
        ),
    ),
    "sends the whole request again": CoordinatorFault(
        "resume-request",
        to_coordinator=change(
            Hello, lambda f: {"live_jobs": [replace(j, request_offset=0) for j in f.live_jobs]}
        ),
    ),
    "uses a new id for a repeated job": CoordinatorFault(
        "resume-nothing-unknown",
        to_agent=change(JobHeader, lambda _: {"job_id": bytes(16)}, is_repeated()),
    ),
    "sends no RoutingStatus": CoordinatorFault("routing-status", to_agent=drop(RoutingStatus)),
}


@asynccontextmanager
async def running_coordinator(fault: CoordinatorFault) -> AsyncIterator[CoordinatorTarget]:
    """Run our coordinator behind a relay that adds a fault."""
    async with fault.relay() as relay:
        settings = CoordinatorSettings(
            port=0, drain_s=0, authorities=(relay.authority, *fault.authorities)
        )
        random: dict[str, Any] = {"random_bytes": bytes} if fault.constant_nonce else {}
        async with Coordinator(settings, clock=now, **random) as coordinator:
            relay.target_url = coordinator.connect_url
            yield CoordinatorTarget(relay.url, coordinator.http_url)


@pytest.mark.parametrize("receipts", [ReceiptMode.HASH, ReceiptMode.SIGNED])
@in_virtual_time
async def test_our_coordinator_conforms(receipts: ReceiptMode) -> None:
    settings = CoordinatorSettings(port=0, drain_s=0, receipts=receipts)
    async with Coordinator(settings, clock=now) as coordinator:
        target = CoordinatorTarget(coordinator.connect_url, coordinator.http_url)
        report = await run_against_coordinator(target, ())

    assert deviations(report) == {}
    assert len(report.results) == len(CASE_IDS)


@in_virtual_time
async def test_a_relay_without_a_fault_changes_no_result() -> None:
    only = sorted({fault.case for fault in FAULTS.values()})
    async with running_coordinator(CoordinatorFault("none")) as target:
        report = await run_against_coordinator(target, only)

    assert deviations(report) == {}


@pytest.mark.parametrize("name", FAULTS)
@in_virtual_time
async def test_the_kit_finds_a_planted_fault(name: str) -> None:
    fault = FAULTS[name]
    async with running_coordinator(fault) as target:
        report = await run_against_coordinator(target, [fault.case, "ack-early"])

    assert fault.case in broken(report)


@in_virtual_time
async def test_a_submit_url_that_cannot_be_reached_is_not_a_broken_rule() -> None:
    settings = CoordinatorSettings(port=0, drain_s=0)
    async with Coordinator(settings, clock=now) as coordinator:
        target = CoordinatorTarget(coordinator.connect_url, "http://127.0.0.1:9")
        async with CoordinatorUnderTest(target) as kit:
            agent = await kit.connect()
            with pytest.raises(Unreachable, match="cannot reach --submit-url: connection refused"):
                await kit.submit(agent)


@pytest.mark.parametrize("lost", [True, False])
@in_virtual_time
async def test_a_refused_upgrade_means_unreachable_only_after_a_lost_connection(lost: bool) -> None:
    upgrades = 0

    def refuse_second(connection: ServerConnection, _request: Request) -> Response | None:
        nonlocal upgrades
        upgrades += 1
        return connection.respond(HTTPStatus.BAD_GATEWAY, "") if upgrades > 1 else None

    async def accept(socket: ServerConnection) -> None:
        if lost:
            socket.transport.abort()
        await socket.wait_closed()

    async with serve(accept, "127.0.0.1", 0, process_request=refuse_second) as proxy:
        target = CoordinatorTarget(f"ws://127.0.0.1:{proxy.sockets[0].getsockname()[1]}/")
        async with CoordinatorUnderTest(target) as kit:
            peer = await kit.dial()
            if lost:
                await peer.closed.wait()
            with pytest.raises(Unreachable) if lost else nullcontext():
                await kit.check_reachable()
    assert upgrades == 2
