"""The coordinator's half of the Use Pod dialect against random messages of an agent."""

import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
from provider_agent.protocol.exceptions import MalformedMessage
from provider_agent.protocol.frames import (
    AgentFrame,
    Chunk,
    JobError,
    JobResult,
    JobStarted,
    Welcome,
)
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import BATCH_BYTES, KIB, MIB
from provider_agent.protocol.usepod.coordinator_dialect import UsepodCoordinatorDialect
from tests.fuzz.depth import STEPS_DONE, depth
from tests.unit.protocol.usepod.test_coordinator_dialect import auth_response

JOBS = [str(uuid.UUID(int=number, version=4)) for number in range(4)]
MAX_BYTES = 64 * KIB
WELCOME = Welcome("p", bytes(16), 15_000, 0, MIB, MAX_BYTES)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
JOB_IDS = st.sampled_from([*JOBS, JOBS[0].upper(), "", "1"])
DATA = st.sampled_from(["", "QQ==", "ZGF0YTogMQoK", "QQ", "%%", "QUFBQUFBQUFBQUFB" * 64])
COUNTS = st.sampled_from([0, 1, -1, 2**53, 2**70, 0.5])
TOKENS = st.dictionaries(
    st.sampled_from(["input", "output", "input_tokens", "output_tokens"]), COUNTS
)
MODELS = st.lists(
    st.fixed_dictionaries(
        {
            "model_id": st.text(max_size=3),
            "input_per_1m": COUNTS,
            "output_per_1m": COUNTS,
            "max_concurrent": COUNTS,
        },
        optional={"backend": JSON, "context_window": COUNTS | st.none()},
    ),
    max_size=3,
)


def message(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Messages of one type; each field is as it should be, or anything, or missing."""
    return st.fixed_dictionaries(
        {"type": st.just(kind)}, optional={name: one | one | JSON for name, one in fields.items()}
    )


OBJECTS = st.one_of(
    st.fixed_dictionaries({"type": st.just("job_chunk"), "job_id": JOB_IDS, "data": DATA}),
    message("job_chunk", job_id=JOB_IDS, data=DATA),
    message("job_done", job_id=JOB_IDS, tokens=TOKENS, duration_ms=COUNTS),
    message("job_error", job_id=JOB_IDS, error_code=st.text(), message=st.text()),
    message(
        "capabilities",
        models=MODELS,
        limits=st.fixed_dictionaries({"max_concurrent_total": COUNTS}),
    ),
    message("heartbeat", queue_depth=COUNTS, tokens_per_sec_p50=COUNTS, error_rate_60s=COUNTS),
    message("config_update", job_id=JOB_IDS),
)
MESSAGES = st.one_of(OBJECTS.map(json.dumps), JSON.map(json.dumps), st.text(), st.binary())
STEPS = st.one_of(
    st.tuples(st.just("receive"), MESSAGES),
    st.tuples(st.sampled_from(["start", "cancel"]), st.sampled_from(JOBS)),
)


class Connection:
    """An open connection, and what the application has received.

    Attributes:
        data: the received bytes of each job.
        ended: the jobs whose end was received.
    """

    def __init__(self) -> None:
        self.dialect = UsepodCoordinatorDialect("one")
        self.protocol = CoordinatorProtocol(
            nonce=bytes(32), name="", authorities=(), verify=lambda _: True, whole_requests=True
        )
        self.data: dict[bytes, bytes] = {}
        self.ended: set[bytes] = set()
        self.receive(auth_response())
        self.protocol.accept(WELCOME)
        self.flush()

    def start(self, text: str) -> None:
        job_id = uuid.UUID(text).bytes
        if job_id not in self.data:
            self.data[job_id] = b""
            self.protocol.start_job(Job(job_id, "m", "openai", b'{"model":"m"}', 1000, "chat"))

    def cancel(self, text: str) -> None:
        self.protocol.cancel_job(uuid.UUID(text).bytes, "")

    def receive(self, text: bytes | str) -> None:
        self.process(self.dialect.decode_from_agent(text, MAX_BYTES).frames)

    def flush(self) -> None:
        while frames := self.protocol.next_frames(BATCH_BYTES):
            for text in self.dialect.encode_messages(frames):
                assert json.loads(text)["type"]
            self.process(self.dialect.take_frames())

    def process(self, frames: list[AgentFrame]) -> None:
        for frame in frames:
            match accepted := self.protocol.receive(frame):
                case JobStarted():
                    assert self.data[accepted.job_id] == b""
                case Chunk():
                    assert accepted.offset == len(self.data[accepted.job_id])
                    self.data[accepted.job_id] += accepted.data
                    self.protocol.consumed(accepted.job_id, len(accepted.data))
                case JobResult() | JobError():
                    assert accepted.job_id not in self.ended, "a second end"
                    assert accepted.total_bytes == len(self.data[accepted.job_id])
                    self.ended.add(accepted.job_id)


@given(st.lists(STEPS, min_size=5, max_size=60))
@depth(2.0)
def test_no_message_breaks_the_protocol_and_every_job_ends_once(
    steps: list[tuple[str, Any]],
) -> None:
    connection = Connection()
    for action, value in steps:
        STEPS_DONE["messages"] += 1
        getattr(connection, action)(value)
        connection.flush()
    for text in JOBS:
        connection.start(text)
        connection.flush()
        connection.cancel(text)
    connection.flush()

    assert connection.ended == connection.data.keys()
    assert connection.protocol.streams == {}
    assert "jobs=0" in repr(connection.dialect)


@given(MESSAGES)
@depth(1.0)
def test_nothing_but_the_handshake_precedes_the_handshake(text: bytes | str) -> None:
    dialect = UsepodCoordinatorDialect("one")
    with pytest.raises(MalformedMessage):
        dialect.decode_from_agent(text, MAX_BYTES)
