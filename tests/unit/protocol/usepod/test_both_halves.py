"""Our agent's half and our coordinator's half of the dialect, on random jobs."""

import uuid
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from provider_agent.protocol.frames import (
    AgentFrame,
    AgentLimits,
    BackendLoad,
    Cancel,
    Capabilities,
    Chunk,
    CoordinatorFrame,
    Heartbeat,
    Hello,
    JobError,
    JobHeader,
    JobResult,
    JobStarted,
    ModelLoad,
    ModelOffer,
    RequestChunk,
    Usage,
)
from provider_agent.protocol.limits import MAX_MESSAGE_TO_COORDINATOR_BYTES
from provider_agent.protocol.usepod.coordinator_dialect import UsepodCoordinatorDialect
from provider_agent.protocol.usepod.error_codes import ERROR_CODES
from tests.unit.protocol.usepod.dialects import DialectHarness

NAMES = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=30)
COUNTS = st.integers(1, 2**40)
DATA = st.binary(min_size=1, max_size=300)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=10,
)
PAIRS = st.lists(st.tuples(st.uuids(version=4), DATA), max_size=20)


HELLO = Hello("1.2.3", bytes(32), bytes(64), "POD-1", "one")


class Both:
    """A connection of our agent to our coordinator, both after the handshake."""

    def __init__(self) -> None:
        self.agent = DialectHarness()
        self.coordinator = UsepodCoordinatorDialect("one")
        assert self.to_coordinator(HELLO) == [HELLO]

    def to_agent(self, *frames: CoordinatorFrame) -> list[CoordinatorFrame]:
        texts = self.coordinator.encode_messages(frames)
        return [one for text in texts for one in self.agent.receive(text.decode())]

    def to_coordinator(self, frame: AgentFrame) -> list[AgentFrame]:
        text = self.agent.send(frame)
        if not text:
            return []
        decoded = self.coordinator.decode_from_agent(text, MAX_MESSAGE_TO_COORDINATOR_BYTES)
        assert decoded.unknown_types == []
        return decoded.frames

    def start(self, job_id: bytes, model_id: str = "m", body: bytes = b"{}") -> JobHeader:
        header = JobHeader(job_id, model_id, "openai", len(body), 60_000)
        self.to_agent(header, RequestChunk(job_id, 0, body))
        return header


@given(st.uuids(), NAMES, st.integers(0, 86_400_000), st.dictionaries(NAMES, JSON))
def test_a_job_arrives_with_its_request(
    job_id: uuid.UUID, model_id: str, deadline_ms: int, fields: dict[str, Any]
) -> None:
    body = msgspec.json.encode(fields | {"stream": True})
    header = JobHeader(job_id.bytes, model_id, "openai", len(body), deadline_ms)
    chunk = RequestChunk(job_id.bytes, 0, body)

    assert Both().to_agent(header, chunk) == [header, chunk]


@given(st.uuids(), st.lists(DATA, min_size=1), COUNTS, COUNTS, COUNTS)
def test_a_response_arrives_with_its_offsets_and_its_end(
    job: uuid.UUID, pieces: list[bytes], tokens_in: int, tokens_out: int, duration_ms: int
) -> None:
    both, job_id, total = Both(), job.bytes, 0
    both.start(job_id)
    sent: list[AgentFrame] = [JobStarted(job_id, 200, "text/event-stream", "")]
    for piece in pieces:
        sent.append(Chunk(job_id, total, piece))
        total += len(piece)
    sent.append(JobResult(job_id, total, Usage(tokens_in, tokens_out), "", duration_ms, None))

    assert [one for frame in sent for one in both.to_coordinator(frame)] == sent


@given(PAIRS, st.sampled_from(sorted(ERROR_CODES)), st.text(max_size=50))
def test_jobs_that_share_a_connection_stay_apart(
    pairs: list[tuple[uuid.UUID, bytes]], code: str, message: str
) -> None:
    both = Both()
    received = {job.bytes: b"" for job, _ in pairs}
    for job_id in received:
        both.start(job_id)
    offsets = dict.fromkeys(received, 0)
    for job, data in pairs:
        for frame in both.to_coordinator(Chunk(job.bytes, offsets[job.bytes], data)):
            if isinstance(frame, Chunk):
                assert frame.offset == len(received[frame.job_id])
                received[frame.job_id] += frame.data
        offsets[job.bytes] += len(data)

    for job_id, data in received.items():
        assert data == b"".join(piece for job, piece in pairs if job.bytes == job_id)
        (end,) = both.to_coordinator(JobError(job_id, len(data), code, message))
        assert isinstance(end, JobError)
        assert (end.total_bytes, end.message) == (len(data), message)
        assert end.code in ERROR_CODES.values()


@given(st.uuids(), st.lists(DATA, max_size=3))
def test_a_cancelled_job_ends_on_both_sides(job: uuid.UUID, pieces: list[bytes]) -> None:
    both, job_id, total = Both(), job.bytes, 0
    both.start(job_id)
    for piece in pieces:
        both.to_coordinator(Chunk(job_id, total, piece))
        total += len(piece)

    assert both.to_agent(Cancel(job_id)) == [Cancel(job_id)]
    (end,) = both.coordinator.take_frames()
    assert isinstance(end, JobError)
    assert (end.code, end.total_bytes) == ("cancelled", total)
    assert both.to_coordinator(JobError(job_id, total, "cancelled", "")) == []


@given(st.lists(st.tuples(NAMES, COUNTS, COUNTS, COUNTS), max_size=5), COUNTS, st.none() | COUNTS)
def test_offers_arrive_as_chat_models(
    models: list[tuple[str, int, int, int]], capacity: int, tokens: int | None
) -> None:
    offers = [
        ModelOffer(name, ["openai"], ["chat"], 4096, True, "vllm", slots, price_in, price_out)
        for name, slots, price_in, price_out in models
    ]
    sent = Capabilities(1, offers, AgentLimits(capacity, tokens))

    received = [
        replace(offer, max_concurrent=min(offer.max_concurrent, capacity)) for offer in offers
    ]
    assert Both().to_coordinator(sent) == [replace(sent, models=received)]


@given(st.integers(0, 99), st.floats(0.5, 1e6), st.integers(1, 9999), st.floats(0.01, 1.0))
def test_a_heartbeat_arrives_with_its_figures(
    queued: int, speed: float, latency_ms: int, error_rate: float
) -> None:
    both = Both()
    both.to_coordinator(Capabilities(1, [], AgentLimits(7)))
    figures = (latency_ms, latency_ms, error_rate)
    model = ModelLoad("m", "", 0, decode_tokens_per_second=speed)
    load = BackendLoad("vllm", True, 0, 7, models=[model])

    sent = Heartbeat(0, queued, 7, None, *figures, [load])
    assert both.to_coordinator(sent) == [Heartbeat(0, queued, 7, speed, *figures)]
