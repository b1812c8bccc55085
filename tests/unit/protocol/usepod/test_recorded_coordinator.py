"""The recorded sessions of the marketplace's own agent, replayed to the coordinator's half."""

import base64
import uuid
from collections import defaultdict
from functools import partial

import msgspec
import pytest

from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
from provider_agent.protocol.frames import (
    AgentFrame,
    Capabilities,
    Chunk,
    Heartbeat,
    Hello,
    JobEnd,
    JobError,
    JobResult,
    JobStarted,
    Rejected,
    Usage,
    Welcome,
)
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import MAX_MESSAGE_TO_COORDINATOR_BYTES, MIB
from provider_agent.protocol.state import State
from provider_agent.protocol.usepod.coordinator_dialect import UsepodCoordinatorDialect
from provider_agent.protocol.usepod.coordinator_session import is_signed
from tests.unit.protocol.usepod.recorded import Recorded, recorded

WELCOME = Welcome("prov_0123456789", bytes(16), 15_000, 0, MIB, MAX_MESSAGE_TO_COORDINATOR_BYTES)


class Replay:
    """Our coordinator in place of the recorded one, which sends what that one sent.

    Attributes:
        frames: what the application received, by scene.
        sent: our messages.
        skipped: the types of the skipped messages of the agent.
    """

    def __init__(self) -> None:
        self.frames: dict[str, list[AgentFrame]] = defaultdict(list)
        self.sent: list[dict[str, object]] = []
        self.skipped: list[int | str] = []
        self.jobs: set[bytes] = set()

    def send(self, message: Recorded) -> None:
        """Make our coordinator do what the recorded one did."""
        try:
            fields = msgspec.json.decode(message.text)
        except msgspec.DecodeError:
            return
        match fields:
            case {"type": "auth_challenge"}:
                self._connect(base64.b64decode(fields["nonce"]))
            case {"type": "auth_ok"}:
                self.protocol.accept(WELCOME)
            case {"type": "auth_failed"}:
                self.protocol.reject(Rejected("unknown", "unknown"))
            case {"type": "job", "job_id": job_id}:
                self._start(uuid.UUID(job_id).bytes, fields)
            case {"type": "job_cancel", "job_id": job_id}:
                self.protocol.cancel_job(uuid.UUID(job_id).bytes, "not needed")
        self._flush(message.scene)

    def _connect(self, nonce: bytes) -> None:
        self.dialect = UsepodCoordinatorDialect("one")
        self.protocol = CoordinatorProtocol(
            nonce=nonce,
            name="",
            authorities=(),
            verify=partial(is_signed, nonce=nonce),
            whole_requests=True,
        )

    def _start(self, job_id: bytes, fields: dict[str, object]) -> None:
        if job_id not in self.protocol.streams:  # one was sent twice
            self.jobs.add(job_id)
            request = msgspec.json.encode(fields["request"])
            self.protocol.start_job(Job(job_id, str(fields["model_id"]), "openai", request, 60_000))

    def _flush(self, scene: str) -> None:
        while frames := self.protocol.next_frames(MIB):
            self.sent += map(msgspec.json.decode, self.dialect.encode_messages(frames))
            self._receive(scene, self.dialect.take_frames())

    def receive(self, message: Recorded) -> None:
        """Process a message of the recorded agent."""
        decoded = self.dialect.decode_from_agent(message.text, MAX_MESSAGE_TO_COORDINATOR_BYTES)
        self.skipped += decoded.unknown_types
        self._receive(message.scene, decoded.frames)
        self._flush(message.scene)

    def _receive(self, scene: str, frames: list[AgentFrame]) -> None:
        for frame in frames:
            if (accepted := self.protocol.receive(frame)) is not None:
                self.frames[scene].append(accepted)

    def every(self) -> list[AgentFrame]:
        return [frame for frames in self.frames.values() for frame in frames]

    def ends(self, scene: str) -> list[JobEnd]:
        return [one for one in self.frames[scene] if isinstance(one, JobResult | JobError)]


@pytest.fixture
def replay() -> Replay:
    replay = Replay()
    for message in recorded():
        (replay.send if message.sender == "coordinator" else replay.receive)(message)
    return replay


def test_every_message_of_the_agent_is_understood(replay: Replay) -> None:
    assert replay.skipped == []
    assert replay.protocol.state is State.OPEN


def test_every_connection_authenticates(replay: Replay) -> None:
    hellos = [frame for frame in replay.every() if isinstance(frame, Hello)]

    assert len(hellos) == len(list(recorded("agent", "auth_response"))) > 1
    assert [hello.enrollment_code for hello in hellos] == ["POD-ENROLL-TEST"] + [""] * (
        len(hellos) - 1
    )
    assert {hello.agent_version for hello in hellos} == {"0.3.3"}
    types = [one["type"] for one in replay.sent]
    assert types.count("auth_ok") + types.count("auth_failed") == len(hellos)


def test_every_connection_offers_its_models(replay: Replay) -> None:
    offers = [frame for frame in replay.every() if isinstance(frame, Capabilities)]

    assert len(offers) == len(list(recorded("agent", "capabilities")))
    model = next(one for one in offers[0].models if one.model_id == "tiny")
    assert (model.operations, model.backend_kind) == (["chat"], "vllm")
    assert (model.input_price_per_1m, model.output_price_per_1m) == (500_000, 750_000)
    assert offers[0].limits.max_concurrent == 2


def test_the_constant_zeros_of_its_heartbeats_are_unknown(replay: Replay) -> None:
    beats = [frame for frame in replay.every() if isinstance(frame, Heartbeat)]

    assert len(beats) == len(list(recorded("agent", "heartbeat"))) > 0
    for beat in beats:
        assert (beat.tokens_per_second, beat.first_byte_p50_ms, beat.error_rate) == (None,) * 3


def test_a_response_arrives_as_an_event_stream_with_its_usage(replay: Replay) -> None:
    started, *chunks, end = replay.frames["streamed chat job"]
    texts = recorded("agent", "job_chunk", "streamed chat job")
    data = b"".join(base64.b64decode(msgspec.json.decode(one.text)["data"]) for one in texts)

    assert isinstance(started, JobStarted)
    assert (started.status, started.content_type) == (200, "text/event-stream")
    assert b"".join(one.data for one in chunks if isinstance(one, Chunk)) == data
    assert isinstance(end, JobResult)
    assert (end.total_bytes, end.usage, end.duration_ms) == (len(data), Usage(5, 5), 6)


def test_zero_tokens_are_unknown(replay: Replay) -> None:
    (end,) = replay.ends("stream_options given")
    assert end.usage == Usage()


@pytest.mark.parametrize(
    ("scene", "codes"),
    [
        ("server answers 400", ["bad_request"]),
        ("server answers 401", ["auth_rejected_by_backend"]),
        ("server answers 404", ["model_not_loaded"]),
        ("server answers 429", ["backend_overloaded"]),
        ("server answers 500", ["backend_error"]),
        ("server closes in mid-stream", ["internal"]),
        ("deadline of 1 s, slow stream", ["backend_timeout"]),
        ("unknown model", ["model_not_loaded"]),
        ("three jobs, two allowed", ["out_of_capacity", "cancelled", "cancelled"]),
        ("cancel in mid-stream", ["cancelled"]),
        ("same job id twice", ["backend_timeout"]),
    ],
)
def test_every_failed_job_ends_once(replay: Replay, scene: str, codes: list[str]) -> None:
    ends = replay.ends(scene)
    assert [end.code for end in ends if isinstance(end, JobError)] == codes
    assert len(ends) == len(codes)


def test_the_client_can_see_why_the_server_rejected_its_request(replay: Replay) -> None:
    (end,) = replay.ends("server answers 422")

    assert isinstance(end, JobError)
    assert (end.code, end.upstream_status, end.retryable) == ("bad_request", 422, False)
    assert msgspec.json.decode(end.body)["error"]["message"] == "scripted 422"


def test_every_job_ends_once_unless_its_connection_is_lost(replay: Replay) -> None:
    ended = [one.job_id for one in replay.every() if isinstance(one, JobResult | JobError)]
    lost = [
        "coordinator closes in mid-job",
        "connection cut without a close frame",
        "SIGTERM while a job runs",
    ]
    without_end = {
        uuid.UUID(msgspec.json.decode(one.text)["job_id"]).bytes
        for scene in lost
        for one in recorded("coordinator", "job", scene)
    }

    assert len(ended) == len(set(ended))
    assert set(ended) == replay.jobs - without_end
