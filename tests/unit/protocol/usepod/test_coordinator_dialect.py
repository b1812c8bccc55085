"""The coordinator's half: an agent's messages as frames, and our frames as messages."""

import base64
import json
import uuid

import pytest

from provider_agent.protocol.exceptions import MalformedMessage, MessageTooBig
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    AgentLimits,
    Cancel,
    Capabilities,
    Challenge,
    Chunk,
    CoordinatorFrame,
    Drain,
    Heartbeat,
    Hello,
    JobError,
    JobHeader,
    JobResult,
    JobStarted,
    ModelOffer,
    Notice,
    Rejected,
    RequestChunk,
    RoutingStatus,
    Usage,
    Welcome,
)
from provider_agent.protocol.limits import KIB, MAX_MESSAGE_TO_COORDINATOR_BYTES, MIB
from provider_agent.protocol.usepod.coordinator_dialect import (
    MAX_JOB_BYTES,
    UsepodCoordinatorDialect,
)

ID = uuid.UUID("4ee1308c-f210-44b2-9bf2-628bb77a9e7a")
TEXT, JOB_ID = str(ID), ID.bytes
REQUEST = b'{ "model":"tiny", "stream":true, "temperature":0.10 }'


def encode64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def auth_response(**fields: str) -> str:
    valid = {"pubkey": encode64(bytes(32)), "signature": encode64(bytes(64))}
    return json.dumps({"type": "auth_response", **valid, **fields})


class Connection:
    """A connection; by default, the agent has authenticated."""

    def __init__(self, *, greeted: bool = True) -> None:
        self.dialect = UsepodCoordinatorDialect("instance")
        self.skipped: list[int | str] = []
        if greeted:
            self.receive_raw(auth_response())

    def send(self, frame: CoordinatorFrame) -> str:
        return b"".join(self.dialect.encode_messages([frame])).decode()

    def send_job(self, job_id: bytes = JOB_ID, request: bytes = REQUEST) -> str:
        assert self.send(JobHeader(job_id, "tiny", "openai", len(request), 60_000, "chat")) == ""
        return self.send(RequestChunk(job_id, 0, request))

    def receive_raw(self, message: bytes | str) -> list[AgentFrame]:
        decoded = self.dialect.decode_from_agent(message, MAX_MESSAGE_TO_COORDINATOR_BYTES)
        self.skipped += decoded.unknown_types
        return decoded.frames

    def receive(self, **message: object) -> list[AgentFrame]:
        return self.receive_raw(json.dumps(message))

    def receive_data(self, data: bytes) -> list[AgentFrame]:
        return self.receive(type="job_chunk", job_id=TEXT, data=encode64(data))

    def receive_error(self, code: str) -> JobError:
        (end,) = self.receive(
            type="job_error", job_id=TEXT, error_code=code, message="why", tokens_emitted=7
        )
        assert isinstance(end, JobError)
        return end


@pytest.fixture
def connection() -> Connection:
    return Connection()


# --- handshake ------------------------------------------------------------------------------------


def test_the_handshake_has_the_messages_of_the_dialect() -> None:
    connection = Connection(greeted=False)
    nonce = bytes(range(32))
    welcome = Welcome("prov_1", bytes(16), 15_000, 0, MIB, MIB)

    assert json.loads(connection.send(Challenge(nonce, "name"))) == {
        "type": "auth_challenge",
        "nonce": encode64(nonce),
    }
    assert json.loads(connection.send(welcome)) == {"type": "auth_ok", "provider_id": "prov_1"}
    assert json.loads(connection.send(Rejected("not_enrolled", "Unknown key."))) == {
        "type": "auth_failed",
        "reason": "not_enrolled: Unknown key.",
    }


@pytest.mark.parametrize("code", [None, "POD-1"])
def test_an_auth_response_is_a_hello_without_a_session(code: str | None) -> None:
    connection = Connection(greeted=False)
    key, signature = bytes(range(32)), bytes(range(64))
    fields = {"pubkey": encode64(key), "signature": encode64(signature), "agent_version": "0.3.3"}
    if code is not None:
        fields["enrollment_code"] = code
    (hello,) = connection.receive(type="auth_response", **fields)

    assert hello == Hello("0.3.3", key, signature, code or "", "instance")


@pytest.mark.parametrize(
    "message",
    [
        "{",
        "[]",
        '"text"',
        b"\x00",
        '{"type":"config_update"}',
        '{"type":"auth_response"}',
        '{"type":"heartbeat"}',
        '{"type":"job_chunk","job_id":"x","data":""}',
        auth_response(pubkey=encode64(bytes(31))),
        auth_response(pubkey="****"),
        auth_response(signature=encode64(b"x")),
    ],
)
def test_before_the_handshake_anything_else_is_an_error(message: bytes | str) -> None:
    with pytest.raises(MalformedMessage):
        Connection(greeted=False).receive_raw(message)


@pytest.mark.parametrize("message", ["x" * 1025, b"x" * 1025])
def test_a_message_over_the_limit_is_an_error(connection: Connection, message: bytes | str) -> None:
    with pytest.raises(MessageTooBig):
        connection.dialect.decode_from_agent(message, 1024)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("{", "malformed"),
        ("[1]", "malformed"),
        ("[" * 100_000, "malformed"),
        ('{"type":7}', "malformed"),
        (b'{"type":"heartbeat"}', "binary"),
        ('{"type":"config_update","x":[1]}', "config_update"),
        ('{"type":"' + "x" * 100 + '"}', "x" * 64),
        ('{"type":"capabilities","models":[]}', "malformed capabilities"),
        ('{"type":"heartbeat","queue_depth":"x"}', "malformed heartbeat"),
        ('{"type":"job_done"}', "malformed job_done"),
    ],
)
def test_later_it_is_skipped_and_reported(
    connection: Connection, message: bytes | str, kind: str
) -> None:
    assert connection.receive_raw(message) == []
    assert connection.skipped == [kind]


# --- offers and load ------------------------------------------------------------------------------


def test_capabilities_offer_chat_in_one_format(connection: Connection) -> None:
    model = {
        "model_id": "tiny",
        "input_per_1m": 500_000,
        "output_per_1m": 750_000,
        "max_concurrent": 2,
        "backend": "vllm",
    }
    limits = {"max_concurrent_total": 4, "max_tokens_per_minute": 200_000}
    fields = {"models": [model | {"context_window": 4096}], "limits": limits, "metadata": {}}
    (first,) = connection.receive(type="capabilities", **fields)
    (second,) = connection.receive(type="capabilities", models=[model], limits=limits)

    offer = ModelOffer("tiny", ["openai"], ["chat"], 4096, True, "vllm", 2, 500_000, 750_000)
    assert first == Capabilities(1, [offer], AgentLimits(4, 200_000))
    assert isinstance(second, Capabilities)
    assert second.revision == 2
    assert second.models[0].context_window is None


def test_a_zero_in_a_heartbeat_means_not_measured(connection: Connection) -> None:
    connection.receive(type="capabilities", models=[], limits={"max_concurrent_total": 4})
    connection.send_job()
    zeros = {"tokens_per_sec_p50": 0.0, "p50_latency_ms": 0, "p95_latency_ms": 0}
    nulls = {"last_error_at": None, "last_error_code": None}
    (idle,) = connection.receive(
        type="heartbeat", queue_depth=0, error_rate_60s=0, **zeros, **nulls
    )
    (busy,) = connection.receive(
        type="heartbeat",
        queue_depth=3,
        tokens_per_sec_p50=41.5,
        p50_latency_ms=20,
        p95_latency_ms=90,
        error_rate_60s=0.25,
        last_error_at="2026-01-01T00:00:00Z",
    )
    (absurd,) = connection.receive(
        type="heartbeat", queue_depth=-1, tokens_per_sec_p50=-1, p50_latency_ms=-1, error_rate_60s=9
    )

    assert idle == absurd == Heartbeat(1, 0, 4, None, None, None, None)
    assert busy == Heartbeat(1, 3, 4, 41.5, 20, 90, 0.25)


# --- jobs -----------------------------------------------------------------------------------------


def test_a_job_is_one_message_with_the_request_as_it_is(connection: Connection) -> None:
    message = connection.send_job()

    assert REQUEST.decode() in message
    assert json.loads(message) == {
        "type": "job",
        "job_id": TEXT,
        "model_id": "tiny",
        "request": json.loads(REQUEST),
        "format": "openai",
        "deadline_ms": 60_000,
    }


def test_a_response_gets_a_start_and_offsets(connection: Connection) -> None:
    connection.send_job()

    assert connection.receive_data(b"data: 1") == [
        JobStarted(JOB_ID, 200, "text/event-stream", ""),
        Chunk(JOB_ID, 0, b"data: 1"),
    ]
    assert connection.receive_data(b"") == []
    assert connection.receive_data(b"\n\n") == [Chunk(JOB_ID, 7, b"\n\n")]
    assert connection.receive(
        type="job_done", job_id=TEXT, tokens={"input": 5, "output": 6}, duration_ms=70
    ) == [JobResult(JOB_ID, 9, Usage(5, 6), "", 70, None)]


@pytest.mark.parametrize(
    ("tokens", "usage"),
    [
        ({"input": 5, "output": 6, "input_tokens": 5, "output_tokens": 6}, Usage(5, 6)),
        ({"input_tokens": 5, "output_tokens": 6}, Usage(5, 6)),
        ({"input": 5}, Usage(5, 0)),
        ({"input": 0, "output": 0, "input_tokens": 0, "output_tokens": 0}, Usage()),
        ({}, Usage()),
        (None, Usage()),
        ({"input": -1, "output": 2**60}, Usage()),
    ],
)
def test_two_zero_counts_are_unknown(
    connection: Connection, tokens: dict[str, int] | None, usage: Usage
) -> None:
    connection.send_job()
    connection.receive_data(b"x")
    (end,) = connection.receive(type="job_done", job_id=TEXT, tokens=tokens)

    assert isinstance(end, JobResult)
    assert end.usage == usage


def test_a_success_without_output_is_an_invalid_response(connection: Connection) -> None:
    connection.send_job()
    (end,) = connection.receive(type="job_done", job_id=TEXT, tokens={}, duration_ms=1)

    assert isinstance(end, JobError)
    assert (end.code, end.total_bytes, end.retryable) == ("invalid_response", 0, True)


def test_an_error_counts_the_bytes_that_arrived_before(connection: Connection) -> None:
    connection.send_job()
    connection.receive_data(b"data")
    end = connection.receive_error("backend_timeout")

    assert end == JobError(JOB_ID, 4, "backend_timeout", "why", retryable=True)


def test_nothing_follows_the_end_of_a_job(connection: Connection) -> None:
    connection.send_job()
    connection.receive_error("internal")
    done = {"type": "job_done", "job_id": TEXT, "tokens": {}, "duration_ms": 1}

    assert connection.receive_data(b"late") == []
    assert connection.receive(**done) == []
    assert connection.send(Cancel(JOB_ID)) == ""
    assert connection.dialect.take_frames() == []
    assert connection.skipped == []


def test_a_job_that_was_never_sent_has_no_frames(connection: Connection) -> None:
    assert connection.receive_data(b"data") == []
    assert connection.receive(type="job_error", job_id=TEXT, error_code="internal") == []


@pytest.mark.parametrize(
    "message",
    [
        {"type": "job_chunk", "data": "%%%"},
        {"type": "job_chunk"},
        {"type": "job_done", "tokens": {"input": "many"}},
        {"type": "job_error", "error_code": 7},
    ],
)
def test_a_malformed_message_of_a_job_ends_it(
    connection: Connection, message: dict[str, object]
) -> None:
    connection.send_job()
    connection.receive_data(b"data")
    (end,) = connection.receive(**message, job_id=TEXT)

    assert isinstance(end, JobError)
    assert (end.code, end.total_bytes) == ("invalid_response", 4)
    assert connection.skipped == [f"malformed {message['type']}"]
    assert connection.receive_data(b"late") == []


# --- cancels --------------------------------------------------------------------------------------


def test_a_cancelled_job_ends_at_once(connection: Connection) -> None:
    connection.send_job()
    connection.receive_data(b"data")
    message = connection.send(Cancel(JOB_ID, "not needed"))

    assert json.loads(message) == {"type": "job_cancel", "job_id": TEXT}
    assert connection.dialect.take_frames() == [JobError(JOB_ID, 4, "cancelled", "not needed")]
    assert connection.dialect.take_frames() == []
    assert connection.receive_data(b"late") == []


def test_a_job_that_is_cancelled_before_it_is_sent_leaves_no_message(
    connection: Connection,
) -> None:
    connection.send(JobHeader(JOB_ID, "tiny", "openai", len(REQUEST), 60_000, "chat"))

    assert connection.send(Cancel(JOB_ID)) == ""
    (end,) = connection.dialect.take_frames()
    assert isinstance(end, JobError)
    assert (end.code, end.total_bytes) == ("cancelled", 0)
    assert connection.send(RequestChunk(JOB_ID, 0, REQUEST)) == ""


def test_a_request_that_is_not_utf_8_is_refused(connection: Connection) -> None:
    # In a text message, it would make the agent close the connection of all jobs.
    assert connection.send_job(request=b'{"model":"tiny","stream":true,"x":"\xff"}') == ""
    (end,) = connection.dialect.take_frames()

    assert isinstance(end, JobError)
    assert (end.code, end.retryable) == ("bad_request", False)


def test_a_request_that_exceeds_the_limit_of_a_message_may_run_elsewhere(
    connection: Connection,
) -> None:
    fits = b'{"x":"%b"}' % (b"x" * (MAX_JOB_BYTES - KIB))
    too_large = b'{"x":"%b"}' % (b"x" * (MAX_JOB_BYTES - 100))

    assert len(connection.send_job(request=fits)) <= MAX_JOB_BYTES
    assert connection.send_job(uuid.uuid4().bytes, too_large) == ""
    (end,) = connection.dialect.take_frames()
    assert isinstance(end, JobError)
    assert (end.code, end.upstream_status, end.retryable) == ("bad_request", 413, True)


@pytest.mark.parametrize(
    "frame",
    [Ack(JOB_ID, 1), Drain("stop", 5), Notice("x", "info", "text"), RoutingStatus(1, [])],
    ids=lambda frame: type(frame).__name__,
)
def test_other_frames_have_no_message(connection: Connection, frame: CoordinatorFrame) -> None:
    assert connection.send(frame) == ""
