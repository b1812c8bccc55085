"""The recorded sessions of the marketplace's own agent, replayed."""

import base64

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from provider_agent.protocol.frames import (
    Ack,
    Cancel,
    CoordinatorFrame,
    JobHeader,
    Rejected,
    RequestChunk,
    Welcome,
)
from provider_agent.protocol.state import State
from provider_agent.protocol.usepod import messages
from provider_agent.protocol.usepod.error_codes import ERROR_CODES
from provider_agent.protocol.usepod.session import UsepodSession
from tests.unit.protocol.usepod.dialects import DialectHarness
from tests.unit.protocol.usepod.recorded import Recorded, recorded

OWN_MESSAGES = {
    "auth_response": messages.AuthResponse,
    "capabilities": messages.OfferedCapabilities,
    "heartbeat": messages.AgentHeartbeat,
    "job_chunk": messages.JobChunk,
    "job_done": messages.JobDone,
    "job_error": messages.JobFailed,
}


@pytest.mark.parametrize("kind", OWN_MESSAGES)
def test_our_messages_have_exactly_the_recorded_fields(kind: str) -> None:
    texts = [one.text for one in recorded("agent", kind)]

    assert texts
    for text in texts:
        parsed = msgspec.json.decode(text, type=OWN_MESSAGES[kind])
        assert msgspec.json.decode(msgspec.json.encode(parsed)) == msgspec.json.decode(text)


def test_every_recorded_error_code_is_one_that_the_agent_sends() -> None:
    codes = {msgspec.json.decode(one.text)["error_code"] for one in recorded("agent", "job_error")}

    assert codes
    assert codes <= set(ERROR_CODES.values())


def test_the_recorded_signatures_cover_the_bare_nonce() -> None:
    challenges = list(recorded("coordinator", "auth_challenge"))
    responses = list(recorded("agent", "auth_response"))

    assert len(challenges) == len(responses) > 1
    for challenge, response in zip(challenges, responses, strict=True):
        fields = msgspec.json.decode(response.text)
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(fields["pubkey"]))
        nonce = base64.b64decode(msgspec.json.decode(challenge.text)["nonce"])
        key.verify(base64.b64decode(fields["signature"]), nonce)


class Replay:
    """Our session on the coordinator's recorded messages.

    Attributes:
        frames: what the application received, by scene.
        responses: our answers to the challenges.
    """

    def __init__(self) -> None:
        self.harness = DialectHarness()
        self.frames: dict[str, list[CoordinatorFrame]] = {}
        self.responses: list[str] = []
        self._key = Ed25519PrivateKey.generate()
        self._session = self._new_session()

    def _new_session(self) -> UsepodSession:
        return UsepodSession(
            public_key=self._key.public_key().public_bytes_raw(),
            sign=self._key.sign,
            agent_version="1.2.3",
        )

    def receive(self, message: Recorded) -> None:
        if '"auth_challenge"' in message.text:  # a new connection
            self.harness.reconnect()
            self._session = self._new_session()
        is_binary = message.text.startswith("b'")
        frames = self.harness.receive(message.text.encode() if is_binary else message.text)
        for frame in frames:
            event = self._session.receive(frame)
            if event is not None:
                self.frames.setdefault(message.scene, []).append(event)
        for hello in self._session.to_send:
            self.responses.append(self.harness.send(hello))
        self._session.to_send.clear()

    @property
    def state(self) -> State:
        return self._session.state


@pytest.fixture
def replay() -> Replay:
    result = Replay()
    for message in recorded("coordinator"):
        result.receive(message)
    return result


def test_every_recorded_connection_opens_or_is_refused(replay: Replay) -> None:
    every = [frame for frames in replay.frames.values() for frame in frames]
    challenges = list(recorded("coordinator", "auth_challenge"))

    assert len(replay.responses) == len(challenges)
    welcomes = [frame for frame in every if isinstance(frame, Welcome)]
    rejections = [frame for frame in every if isinstance(frame, Rejected)]
    assert len(welcomes) + len(rejections) == len(challenges)
    assert {welcome.provider_id for welcome in welcomes} == {"prov_0123456789"}
    (rejection,) = rejections
    assert rejection.retry_after_ms


def test_every_recorded_job_arrives_once_with_its_request(replay: Replay) -> None:
    every = [frame for frames in replay.frames.values() for frame in frames]
    headers = [frame for frame in every if isinstance(frame, JobHeader)]
    requests = {frame.job_id: frame.data for frame in every if isinstance(frame, RequestChunk)}
    sent = {}
    for message in recorded("coordinator", "job"):
        fields = msgspec.json.decode(message.text)
        if "job_id" in fields:
            sent[fields["job_id"].replace("-", "")] = fields

    assert [header.job_id.hex() for header in headers] == list(sent)
    for header in headers:
        fields = sent[header.job_id.hex()]
        assert header.model_id == fields["model_id"]
        assert header.format == fields.get("format", "openai")
        assert header.deadline_ms == fields.get("deadline_ms", 60_000)
        request = requests[header.job_id]
        assert header.request_bytes == len(request)
        streamed = {} if header.operation == "embeddings" else {"stream": True}
        assert msgspec.json.decode(request) == fields["request"] | streamed


def test_the_recorded_cancels_arrive_and_no_end_follows(replay: Replay) -> None:
    frames = replay.frames["cancel in mid-stream"]
    (header,) = [frame for frame in frames if isinstance(frame, JobHeader)]

    assert Cancel(header.job_id) in frames


def test_the_recorded_messages_that_are_skipped_are_reported(replay: Replay) -> None:
    assert replay.harness.skipped == ["malformed", "config_update", "malformed job", "binary"]
    assert replay.harness.dialect.take_acks() == []
    assert Ack not in {type(frame) for frames in replay.frames.values() for frame in frames}
    assert replay.state is State.OPEN
