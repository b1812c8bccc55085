"""What the coordinator learns about the agent's load: heartbeats, and offers while it drains."""

import json
from typing import Any

from provider_agent.protocol.errors import ErrorCode, LastError
from provider_agent.protocol.frames import AgentLimits, Capabilities, Draining, Heartbeat
from provider_agent.protocol.usepod.dialect import UsepodDialect
from provider_agent.protocol.usepod.job_ids import JobIds
from tests.unit.protocol.usepod.dialects import DialectHarness
from tests.unit.protocol.usepod.test_offers import offer

BEAT = Heartbeat(3, 2, 8, 51.5, 120.4, 310.6, 0.25)
LIMITS = AgentLimits(4, 9000)


def message(harness: DialectHarness, frame: Capabilities | Draining) -> Any:
    return json.loads(harness.send(frame))


def heartbeat(error: LastError | None) -> Any:
    dialect = UsepodDialect(JobIds(), "1", lambda _: None, lambda: error)
    return json.loads(dialect.encode_messages([BEAT])[0])


def test_a_heartbeat_has_the_last_error_in_the_forms_of_the_dialect() -> None:
    beat = heartbeat(LastError(1_780_000_000.75, ErrorCode.DEADLINE_EXCEEDED))

    assert beat["last_error_at"] == "2026-05-28T20:26:40Z"
    assert beat["last_error_code"] == "backend_timeout"


def test_a_heartbeat_without_an_error_has_nulls() -> None:
    beat = heartbeat(None)

    assert beat["last_error_at"] is beat["last_error_code"] is None


def test_a_drain_withdraws_the_offers_until_the_connection_ends() -> None:
    harness = DialectHarness()
    offers = Capabilities(1, [offer("a"), offer("free", input_price_per_1m=None)], LIMITS)
    assert len(message(harness, offers)["models"]) == 1

    for frame in (Draining(5000), offers, Draining(0)):
        assert message(harness, frame) == {
            "type": "capabilities",
            "models": [],
            "limits": {"max_concurrent_total": 4, "max_tokens_per_minute": 9000},
            "metadata": {"agent_version": "1.2.3"},
        }
    assert harness.withheld == [["free"]], "an offer that is withdrawn is not withheld"

    harness.reconnect()
    assert len(message(harness, offers)["models"]) == 1


def test_a_drain_before_the_first_offers_leaves_them_out() -> None:
    harness = DialectHarness()

    assert harness.send(Draining(5000)) == ""
    assert message(harness, Capabilities(1, [offer("a")], LIMITS))["models"] == []
