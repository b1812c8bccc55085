"""Runs the conformance kit over the dialect `usepod` against our agent, sound and with faults."""

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from msgspec import Struct

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
from provider_agent.protocol.codec import Decoded
from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import AgentFrame, CoordinatorFrame
from provider_agent.protocol.usepod.dialect import UsepodDialect
from provider_agent.protocol.usepod.job_ids import JobIds
from tests.kit.conformance_results import broken, deviations
from tests.kit.running_agent import RunningAgent
from tests.kit.usepod_harness import usepod_config
from tests.kit.virtual_time import in_virtual_time

WAIT_S: Final = 60.0
Message = dict[str, Any]


class Fault(Struct, frozen=True):
    """A fault of an agent.

    Attributes:
        case: the id of the case that finds it.
        sends: returns what is sent instead of a message; None: nothing.
        receives: returns what is received instead of a message; None: nothing.
        repeats_jobs: whether a job id that arrives again is another job.
        ends_cancelled_jobs: whether a cancelled job has an end.
    """

    case: str
    sends: Callable[[Message], Message | None] = lambda message: message
    receives: Callable[[Message], Message | None] = lambda message: message
    repeats_jobs: bool = False
    ends_cancelled_jobs: bool = False


def only(kind: str, change: Callable[[Message], Message | None]) -> Callable[[Message], Any]:
    """Change only messages of one type."""
    return lambda message: change(message) if message.get("type") == kind else message


def refuse(_message: Message) -> Message:
    raise ProtocolViolation("an unknown message")


FAULTS: Final = {
    "signs something else": Fault(
        "hello", sends=only("auth_response", lambda one: one | {"signature": "A" * 86 + "=="})
    ),
    "sends no capabilities": Fault(
        "capabilities-after-welcome", sends=only("capabilities", lambda _: None)
    ),
    "sends no heartbeat": Fault("heartbeat", sends=only("heartbeat", lambda _: None)),
    "accepts a second challenge": Fault(
        "challenge-twice",
        receives=only("auth_challenge", lambda one: None if one.setdefault("seen", 0) else one),
    ),
    "offers a model without a price": Fault(
        "usepod-prices",
        sends=only(
            "capabilities",
            lambda one: one | {"models": [m | {"input_per_1m": 0} for m in one["models"]]},
        ),
    ),
    "reports a failed job as done": Fault(
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
    "does not cancel": Fault("usepod-cancel", receives=only("job_cancel", lambda _: None)),
    "ends a cancelled job": Fault("usepod-cancel", ends_cancelled_jobs=True),
    "runs a job twice": Fault("usepod-job-twice", repeats_jobs=True),
    "leaves when it receives an unknown message": Fault(
        "usepod-skipped", receives=only("config_update", refuse)
    ),
    "needs a format": Fault(
        "usepod-fields-missing", receives=only("job", lambda one: one if "format" in one else None)
    ),
    "sends an unknown message": Fault(
        "traffic-messages", sends=only("job_done", lambda one: one | {"type": "finished"})
    ),
    "loses the beginning of a response": Fault(
        "usepod-stream", sends=only("job_chunk", lambda one: one | {"data": "AAAA"})
    ),
}


def faulty_dialect(fault: Fault) -> type[UsepodDialect]:
    """Return our dialect with a fault."""

    class FaultyDialect(UsepodDialect):
        def __init__(self, job_ids: JobIds, *arguments: Any) -> None:
            super().__init__(job_ids, *arguments)
            self._challenges = 0

        def encode_messages(self, frames: Sequence[AgentFrame]) -> list[bytes]:
            messages = map(json.loads, super().encode_messages(frames))
            altered = [fault.sends(message) for message in messages]
            return [json.dumps(message).encode() for message in altered if message is not None]

        def decode_from_coordinator(
            self, message: bytes | str, max_bytes: int
        ) -> Decoded[CoordinatorFrame]:
            try:
                received = json.loads(message)
            except (ValueError, RecursionError):
                return super().decode_from_coordinator(message, max_bytes)
            if isinstance(received, dict):
                if received.get("type") == "auth_challenge":
                    received["seen"] = self._challenges
                    self._challenges += 1
                if fault.receives(received) is None:
                    return Decoded([], [])
                if fault.repeats_jobs and received.get("type") == "job":
                    self._job_ids._received.pop(str(received.get("job_id")), None)
            decoded = super().decode_from_coordinator(message, max_bytes)
            if fault.ends_cancelled_jobs and decoded.frames and received["type"] == "job_cancel":
                self._job_ids._texts[decoded.frames[0].job_id] = received["job_id"]  # type: ignore[union-attr]
            return decoded

    return FaultyDialect


@asynccontextmanager
async def running_agent() -> AsyncIterator[AgentListener]:
    """Run the kit's listener, and our agent with the echo backend."""
    async with AgentListener("127.0.0.1", 0, dialect=usepod.DIALECT) as listener:
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
    assert [result.id for result in report.results] == case_ids(usepod.DIALECT)
    assert b'name="usepod agent"' in to_junit(report)


@pytest.mark.parametrize("name", FAULTS)
@in_virtual_time
async def test_the_kit_finds_a_planted_fault(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[name]
    monkeypatch.setattr("provider_agent.agent.link.usepod.UsepodDialect", faulty_dialect(fault))
    async with running_agent() as listener:
        report = await run_against_agent(listener, [fault.case, "job"], wait_s=WAIT_S)

    assert fault.case in broken(report)


def test_every_case_of_version_1_applies_or_has_a_reason() -> None:
    listed = [case_id for ids in usepod._REASONS.values() for case_id in ids]

    assert len(set(listed)) == len(listed)
    assert usepod.APPLICABLE.keys() | set(listed) <= set(CASE_IDS)
    assert usepod.APPLICABLE.keys() | NOT_APPLICABLE.keys() == set(CASE_IDS)
    assert usepod.APPLICABLE.keys() & NOT_APPLICABLE.keys() == set()
    assert [case for case, reason in NOT_APPLICABLE.items() if reason == usepod.UNKNOWN] == []
