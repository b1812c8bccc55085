"""A `ConnectedAgent` whose connection uses the Use Pod dialect, without a WebSocket."""

import base64
import json
import logging
import uuid
from typing import Any

import pytest
from msgspec.structs import replace

from provider_agent.coordinator.agents.connected_agent import ConnectedAgent
from provider_agent.coordinator.agents.dialects import ConnectionFactory
from provider_agent.coordinator.settings import CoordinatorSettings, ReceiptMode
from provider_agent.protocol.frames import JobError
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import BATCH_BYTES, KIB
from provider_agent.protocol.state import State
from provider_agent.protocol.usepod.coordinator_dialect import MAX_UNREAD_BYTES
from tests.unit.coordinator.agents.test_connected_agent import KEY, PUBLIC_KEY, FakeRegistry

ID, OTHER_ID = uuid.UUID(int=1), uuid.UUID(int=2)
JOB = Job(ID.bytes, "tiny", "openai", b'{"model":"tiny"}', 1000, "chat")
OTHER_JOB = replace(JOB, job_id=OTHER_ID.bytes)
PIECE = bytes(512 * KIB)


class Connection:
    """The connection of an admitted agent, without queued messages."""

    def __init__(self, settings: CoordinatorSettings | None = None) -> None:
        self.registry = FakeRegistry()
        new = ConnectionFactory(settings or CoordinatorSettings(), bytes).usepod()
        self.settings = new.settings
        self.agent = ConnectedAgent(
            protocol=new.protocol,
            session_id=b"s" * 16,
            registry=self.registry,
            settings=new.settings,
            clock=lambda: 0.0,
            wake=lambda: None,
            close=lambda _: None,
            check_alive=lambda report: report(True),
            remote="192.0.2.7",
            dialect=new.dialect,
        )
        (challenge,) = self.take()
        self.receive(
            type="auth_response",
            pubkey=base64.b64encode(PUBLIC_KEY).decode(),
            signature=base64.b64encode(KEY.sign(base64.b64decode(challenge["nonce"]))).decode(),
        )
        (welcome,) = self.take()
        assert welcome["type"] == "auth_ok"

    def receive(self, **message: object) -> None:
        self.agent.receive_message(json.dumps(message))

    def receive_data(self, job_id: uuid.UUID, data: bytes) -> None:
        self.receive(type="job_chunk", job_id=str(job_id), data=base64.b64encode(data).decode())

    def take(self) -> list[dict[str, Any]]:
        """Remove and return the queued messages."""
        taken = []
        while messages := self.agent.next_messages(BATCH_BYTES):
            taken += list(map(json.loads, messages))
        return taken


@pytest.fixture
def connection() -> Connection:
    return Connection()


def test_a_job_whose_client_does_not_read_is_cancelled_alone(connection: Connection) -> None:
    slow, other = connection.agent.submit(JOB), connection.agent.submit(OTHER_JOB)
    connection.take()
    for _ in range(MAX_UNREAD_BYTES // len(PIECE)):
        connection.receive_data(ID, PIECE)
    assert connection.take() == []
    assert connection.agent.in_flight == 2
    connection.receive_data(ID, b"x")

    assert isinstance(slow.end, JobError)
    assert (slow.end.code, slow.end.total_bytes) == ("slow_consumer", MAX_UNREAD_BYTES + 1)
    assert connection.take() == [{"type": "job_cancel", "job_id": str(ID)}]
    assert (connection.agent.in_flight, connection.agent.has_job(OTHER_ID.bytes)) == (1, True)
    (ended,) = [end for _, _, end, _ in connection.registry.ended]
    assert isinstance(ended, JobError)
    assert ended.code == "cancelled"
    # What is buffered still reaches the client.
    slow.owner.consume(slow, len(slow.take()))
    slow.owner.abandon(slow)
    connection.receive_data(ID, b"late")
    connection.receive_data(OTHER_ID, b"data")
    assert (slow.take(), other.take()) == (b"", b"data")
    assert connection.agent.state is State.OPEN


def test_a_client_that_reads_may_receive_any_amount(connection: Connection) -> None:
    job = connection.agent.submit(JOB)
    for _ in range(connection.settings.window_bytes // len(PIECE) + 1):
        connection.receive_data(ID, PIECE)
        job.owner.consume(job, len(job.take()))
        connection.agent.acknowledge()
        assert {one["type"] for one in connection.take()} <= {"job"}
    assert job.end is None


def test_the_session_ends_with_its_connection(connection: Connection) -> None:
    connection.agent.submit(JOB)
    connection.agent.leave(keep_session=True)

    ((session, keep_session),) = connection.registry.left
    assert not keep_session
    assert list(session.jobs) == [JOB.job_id]
    assert {one["type"] for one in connection.take()} <= {"job_cancel"}
    assert connection.registry.ended == [], "the end belongs to the session now"


def test_unknown_messages_are_counted_and_logged_once(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(3):
        connection.receive(type="config_update")
    connection.agent.receive_message(b"\x00")

    assert connection.agent.unknown_frames == 4
    (record,) = [one for one in caplog.records if one.message == "unknown frame type skipped"]
    assert getattr(record, "fields", {})["frame_type"] == "config_update"


def test_settings_that_the_dialect_cannot_follow_are_replaced() -> None:
    settings = CoordinatorSettings(
        heartbeat_ms=1000, resume_ms=60_000, receipts=ReceiptMode.SIGNED, name="ours"
    )
    replaced = Connection(settings).settings

    assert (replaced.heartbeat_ms, replaced.resume_ms) == (15_000, 0)
    assert replaced.features == []
    assert replaced.name == "ours"


def test_offers_are_for_streams_only(connection: Connection) -> None:
    model = {"model_id": "tiny", "input_per_1m": 1, "output_per_1m": 1, "max_concurrent": 2}
    connection.receive(type="capabilities", models=[model], limits={"max_concurrent_total": 2})

    assert connection.take() == [], "the dialect has no answer to offers"
    assert connection.agent.offers is not None
    assert connection.agent.offers.only_streams
    assert set(connection.agent.offers.models) == {"tiny"}
