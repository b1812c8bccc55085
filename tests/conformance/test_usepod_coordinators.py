"""Runs the conformance kit over the dialect `usepod` against our coordinator, with faults too."""

import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from provider_agent.conformance.agent_peer import result
from provider_agent.conformance.coordinator_run import (
    CASE_IDS,
    NOT_APPLICABLE,
    case_ids,
    run_against_coordinator,
)
from provider_agent.conformance.coordinator_under_test import CoordinatorTarget
from provider_agent.conformance.of_coordinator.jobs import UNKNOWN_JOB
from provider_agent.conformance.of_coordinator.usepod_version_1 import VERSION_1
from provider_agent.conformance.report import to_junit
from provider_agent.conformance.usepod_cases import DIALECT
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.coordinator.settings import CoordinatorSettings, ExtraDialect
from provider_agent.protocol.codec import Decoded
from provider_agent.protocol.frames import AgentFrame, CoordinatorFrame
from provider_agent.protocol.usepod.coordinator_dialect import UsepodCoordinatorDialect
from provider_agent.protocol.usepod.job_ids import uuid_text
from tests.kit.conformance_results import assert_complete, broken, deviations
from tests.kit.usepod_faults import Change, Fault, Message, altered, only, refuse
from tests.kit.virtual_time import in_virtual_time, now


class CoordinatorFault(Fault, frozen=True):
    """A fault of a coordinator.

    Attributes:
        random_bytes: replaces the coordinator's source of random bytes.
        accepts_signatures: whether every signature is valid.
        refuses_late: whether a message of a cancelled job ends the connection.
        completes_lost: whether a lost link completes its responses.
    """

    random_bytes: Callable[[int], bytes] | None = None
    accepts_signatures: bool = False
    refuses_late: bool = False
    completes_lost: bool = False


def unlimited(message: Message) -> Message:
    """Return offers without limits."""
    models = [one | {"max_concurrent": 99} for one in message["models"]]
    return message | {"models": models, "limits": {"max_concurrent_total": 99}}


def of_unknown_job(message: Message) -> bool:
    """Whether the job of a message is the one that no coordinator has sent."""
    return message.get("job_id") == uuid_text(UNKNOWN_JOB)


def without_code(message: Message) -> bool:
    """Whether a message is an `auth_response` without an enrollment code."""
    return message["type"] == "auth_response" and "enrollment_code" not in message


def new_provider_id(message: Message) -> Message:
    """Return `auth_ok` with a provider id that no agent has yet."""
    return message | {"provider_id": uuid.uuid4().hex}


def complete(jobs: Iterable[RunningJob], *_reason: str) -> None:
    """Complete the responses of lost jobs."""
    for job in jobs:
        job.on_end(result(job.job.job_id, 0))


def refuse_if(condition: Callable[[Message], bool]) -> Change:
    """End the connection at a message that meets the condition."""
    return lambda message: refuse(message) if condition(message) else message


FAULTS: Final = {
    "uses one nonce for all connections": CoordinatorFault("nonce-fresh", random_bytes=bytes),
    "uses short nonces": CoordinatorFault("usepod-nonce", random_bytes=lambda _: b"12345678"),
    "accepts the signature of another key": CoordinatorFault(
        "signature-key", accepts_signatures=True
    ),
    "accepts a signature over another nonce": CoordinatorFault(
        "signature-nonce", accepts_signatures=True
    ),
    "sends no provider id": CoordinatorFault(
        "usepod-auth-ok", sends=only("auth_ok", lambda _: {"type": "auth_ok"})
    ),
    "needs the enrollment code again": CoordinatorFault(
        "usepod-reconnect", receives=refuse_if(without_code)
    ),
    "gives an agent another provider id": CoordinatorFault(
        "usepod-provider-id", sends=only("auth_ok", new_provider_id)
    ),
    "leaves when it receives a heartbeat": CoordinatorFault(
        "usepod-heartbeat", receives=only("heartbeat", refuse)
    ),
    "ignores capabilities without models": CoordinatorFault(
        "offered-models", receives=only("capabilities", lambda one: one if one["models"] else None)
    ),
    "ignores limits": CoordinatorFault("usepod-limits", receives=only("capabilities", unlimited)),
    "loses a field of the request": CoordinatorFault(
        "usepod-job",
        sends=only("job", lambda one: one | {"request": one["request"] | {"x-conformance": 1}}),
    ),
    "sends the request as text": CoordinatorFault(
        "traffic-messages", sends=only("job", lambda one: one | {"request": "{}"})
    ),
    "sends a job id that is not a UUID": CoordinatorFault(
        "traffic-messages", sends=only("job", lambda one: one | {"job_id": "job-1"})
    ),
    "sends one job id twice": CoordinatorFault(
        "traffic-job-ids", sends=only("job", lambda one: one | {"job_id": uuid_text(UNKNOWN_JOB)})
    ),
    "sends jobs for other models": CoordinatorFault(
        "traffic-offers", sends=only("job", lambda one: one | {"model_id": "other"})
    ),
    "changes the response": CoordinatorFault(
        "usepod-response", receives=only("job_chunk", lambda one: one | {"data": "AAAA"})
    ),
    "reports a failed job as complete": CoordinatorFault(
        "error-late", receives=only("job_error", lambda one: one | {"type": "job_done"})
    ),
    "does not cancel": CoordinatorFault("cancel", sends=only("job_cancel", lambda _: None)),
    "completes the response of a lost agent": CoordinatorFault(
        "usepod-lost-late", completes_lost=True
    ),
    "leaves when a cancelled job continues": CoordinatorFault(
        "usepod-cancel-late", refuses_late=True
    ),
    "leaves when it receives a chunk of an unknown job": CoordinatorFault(
        "unknown-job", receives=only("job_chunk", refuse_if(of_unknown_job))
    ),
    "leaves when it receives an unknown message": CoordinatorFault(
        "usepod-types-unknown", receives=only("x_conformance", refuse)
    ),
    "leaves when it receives an unknown field": CoordinatorFault(
        "usepod-fields-unknown", receives=refuse_if(lambda one: "x_conformance" in one)
    ),
}


def faulty_dialect(fault: CoordinatorFault) -> type[UsepodCoordinatorDialect]:
    """Return our dialect with a fault."""

    class FaultyDialect(UsepodCoordinatorDialect):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self._cancelled: set[str] = set()

        def encode_messages(self, frames: Sequence[CoordinatorFrame]) -> list[bytes]:
            return altered(super().encode_messages(frames), self._send)

        def _send(self, message: Message) -> Message | None:
            if message["type"] == "job_cancel":
                self._cancelled.add(message["job_id"])
            return fault.sends(message)

        def decode_from_agent(self, message: bytes | str, max_bytes: int) -> Decoded[AgentFrame]:
            received = fault.receives(json.loads(message))
            if received is None:
                return Decoded([], [])
            if fault.refuses_late and received.get("job_id") in self._cancelled:
                refuse(received)
            return super().decode_from_agent(json.dumps(received), max_bytes)

    return FaultyDialect


@asynccontextmanager
async def running_coordinator(
    random_bytes: Callable[[int], bytes] | None = None,
) -> AsyncIterator[CoordinatorTarget]:
    """Run our coordinator, which also serves agents of the dialect."""
    settings = CoordinatorSettings(port=0, drain_s=0, dialects=frozenset({ExtraDialect.USEPOD}))
    random: dict[str, Any] = {} if random_bytes is None else {"random_bytes": random_bytes}
    async with Coordinator(settings, clock=now, **random) as coordinator:
        yield CoordinatorTarget(
            coordinator.connect_url, coordinator.http_url, enrollment_code="POD-1", dialect=DIALECT
        )


@in_virtual_time
async def test_our_coordinator_conforms() -> None:
    async with running_coordinator() as target:
        report = await run_against_coordinator(target, ())

    assert deviations(report) == {}
    assert [result.id for result in report.results] == case_ids(DIALECT)
    assert b'name="usepod coordinator"' in to_junit(report)


@pytest.mark.parametrize("name", FAULTS)
@in_virtual_time
async def test_the_kit_finds_a_planted_fault(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[name]
    dialects = "provider_agent.coordinator.agents.dialects"
    monkeypatch.setattr(f"{dialects}.UsepodCoordinatorDialect", faulty_dialect(fault))
    if fault.accepts_signatures:
        monkeypatch.setattr(f"{dialects}.is_signed", lambda *_arguments, **_nonce: True)
    if fault.completes_lost:
        sessions = "provider_agent.coordinator.sessions.detached_session"
        monkeypatch.setattr(f"{sessions}._fail", complete)
    async with running_coordinator(fault.random_bytes) as target:
        report = await run_against_coordinator(target, [fault.case, "response-streams", "error"])

    assert fault.case in broken(report)


def test_every_case_of_version_1_applies_or_has_a_reason() -> None:
    assert_complete(VERSION_1, CASE_IDS, NOT_APPLICABLE)
