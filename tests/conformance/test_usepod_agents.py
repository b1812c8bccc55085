"""Runs the conformance kit over the dialect `usepod` against our agent, sound and with faults."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import pytest

from provider_agent.adapters.base import BackendSettings
from provider_agent.adapters.servers.echo import EchoBackend
from provider_agent.conformance.agent_run import (
    CASE_IDS,
    NOT_APPLICABLE,
    case_ids,
    run_against_agent,
)
from provider_agent.conformance.agent_under_test import AgentListener
from provider_agent.conformance.of_agent import usepod
from provider_agent.conformance.report import to_junit
from provider_agent.conformance.usepod_cases import DIALECT
from provider_agent.protocol.codec import Decoded
from provider_agent.protocol.frames import AgentFrame, CoordinatorFrame
from provider_agent.protocol.usepod.dialect import UsepodDialect
from provider_agent.protocol.usepod.job_ids import JobIds
from tests.kit.conformance_results import assert_complete, broken, deviations
from tests.kit.running_agent import RunningAgent
from tests.kit.usepod_faults import Fault, altered, only, refuse
from tests.kit.usepod_harness import usepod_config
from tests.kit.virtual_time import in_virtual_time

WAIT_S: Final = 60.0


class AgentFault(Fault, frozen=True):
    """A fault of an agent.

    Attributes:
        repeats_jobs: whether a job id that arrives again is another job.
        ends_cancelled_jobs: whether a cancelled job has an end.
    """

    repeats_jobs: bool = False
    ends_cancelled_jobs: bool = False


FAULTS: Final = {
    "signs something else": AgentFault(
        "hello", sends=only("auth_response", lambda one: one | {"signature": "A" * 86 + "=="})
    ),
    "sends no capabilities": AgentFault(
        "capabilities-after-welcome", sends=only("capabilities", lambda _: None)
    ),
    "sends no heartbeat": AgentFault("heartbeat", sends=only("heartbeat", lambda _: None)),
    "accepts a second challenge": AgentFault(
        "challenge-twice",
        receives=only("auth_challenge", lambda one: None if one.setdefault("seen", 0) else one),
    ),
    "offers a model without a price": AgentFault(
        "usepod-prices",
        sends=only(
            "capabilities",
            lambda one: one | {"models": [m | {"input_per_1m": 0} for m in one["models"]]},
        ),
    ),
    "reports a failed job as done": AgentFault(
        "model-unknown",
        sends=only(
            "job_error",
            lambda one: {
                "type": "job_done",
                "job_id": one["job_id"],
                "duration_ms": 0,
                "tokens": dict.fromkeys(("input", "output", "input_tokens", "output_tokens"), 0),
            },
        ),
    ),
    "does not cancel": AgentFault("usepod-cancel", receives=only("job_cancel", lambda _: None)),
    "ends a cancelled job": AgentFault("usepod-cancel", ends_cancelled_jobs=True),
    "runs a job twice": AgentFault("usepod-job-twice", repeats_jobs=True),
    "closes the connection when it receives an unknown message": AgentFault(
        "usepod-skipped", receives=only("config_update", refuse)
    ),
    "needs a format": AgentFault(
        "usepod-fields-missing", receives=only("job", lambda one: one if "format" in one else None)
    ),
    "sends an unknown message": AgentFault(
        "traffic-messages", sends=only("job_done", lambda one: one | {"type": "finished"})
    ),
    "loses the beginning of a response": AgentFault(
        "usepod-stream", sends=only("job_chunk", lambda one: one | {"data": "AAAA"})
    ),
}


class FaultyDialect:
    """Our dialect with a fault. It contains ours, because a compiled class has no subclasses."""

    def __init__(self, fault: AgentFault, job_ids: JobIds, *arguments: Any) -> None:
        self._fault = fault
        self._job_ids = job_ids
        self._sound = UsepodDialect(job_ids, *arguments)
        self._challenges = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sound, name)

    def encode_messages(self, frames: Sequence[AgentFrame]) -> list[bytes]:
        return altered(self._sound.encode_messages(frames), self._fault.sends)

    def decode_from_coordinator(
        self, message: bytes | str, max_bytes: int
    ) -> Decoded[CoordinatorFrame]:
        fault = self._fault
        try:
            received = json.loads(message)
        except (ValueError, RecursionError):
            return self._sound.decode_from_coordinator(message, max_bytes)
        if isinstance(received, dict):
            if received.get("type") == "auth_challenge":
                received["seen"] = self._challenges
                self._challenges += 1
            if fault.receives(received) is None:
                return Decoded([], [])
            if fault.repeats_jobs and received.get("type") == "job":
                self._job_ids._received.pop(str(received.get("job_id")), None)
        decoded = self._sound.decode_from_coordinator(message, max_bytes)
        if fault.ends_cancelled_jobs and decoded.frames and received["type"] == "job_cancel":
            self._job_ids._texts[decoded.frames[0].job_id] = received["job_id"]  # type: ignore[union-attr]
        return decoded


@asynccontextmanager
async def running_agent() -> AsyncIterator[AgentListener]:
    """Run the kit's listener, and our agent with the echo backend."""
    async with AgentListener("127.0.0.1", 0, dialect=DIALECT) as listener:
        backend = EchoBackend(BackendSettings(kind="echo"))
        config = usepod_config(listener.url, max_concurrent=4)
        async with RunningAgent(None, backend, config=config):
            yield listener


@pytest.mark.timeout(180)  # both sides run here, with long responses
@in_virtual_time
async def test_our_agent_conforms() -> None:
    async with running_agent() as listener:
        report = await run_against_agent(listener, (), wait_s=WAIT_S)

    assert deviations(report) == {}
    assert [result.id for result in report.results] == case_ids(DIALECT)
    assert b'name="usepod agent"' in to_junit(report)


@pytest.mark.parametrize("name", FAULTS)
@in_virtual_time
async def test_the_kit_finds_a_planted_fault(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[name]
    monkeypatch.setattr(
        "provider_agent.agent.link.usepod.UsepodDialect", partial(FaultyDialect, fault)
    )
    async with running_agent() as listener:
        report = await run_against_agent(listener, [fault.case, "job"], wait_s=WAIT_S)

    assert fault.case in broken(report)


def test_every_case_of_version_1_applies_or_has_a_reason() -> None:
    assert_complete(usepod.VERSION_1, CASE_IDS, NOT_APPLICABLE)
