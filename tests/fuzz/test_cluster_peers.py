"""Another coordinator sends any frames in any order: no exception, and honest jobs are complete."""

import contextlib
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from provider_agent.coordinator.cluster.messages import (
    MAX_MESSAGE_BYTES,
    AgentLost,
    EdgeFrame,
    Gone,
    MalformedPeerMessage,
    Offer,
    PeerFrame,
    Renewal,
    RenewedJob,
    decode_batch,
    decode_snapshot,
    encode_batch,
)
from provider_agent.coordinator.cluster.takeover_messages import (
    TakeoverRequest,
    decode_answer,
    decode_request,
)
from provider_agent.coordinator.cluster.usage import (
    KeyUsage,
    UsageExchange,
    UsageReport,
    decode_report,
)
from provider_agent.coordinator.key_limits import KeyLimits, key_id
from provider_agent.coordinator.usage_window import SLOT_S, WINDOW_S
from provider_agent.protocol.frames import (
    Ack,
    Cancel,
    Chunk,
    JobError,
    JobHeader,
    JobResult,
    JobStarted,
    LiveJob,
    RequestChunk,
    Usage,
)
from tests.fuzz.depth import depth
from tests.kit.cluster_pair import AGENT_KEY, EDGE, HOLDER, WINDOW, ClusterPair, chat_job
from tests.kit.fake_clock import FakeClock

JOB_IDS = st.integers(0, 3).map(lambda number: number.to_bytes(16, "big"))
OFFSETS = st.one_of(st.integers(0, 40), st.just(WINDOW), st.integers(0, 2**53 - 1))
DATA = st.one_of(st.binary(max_size=40), st.just(bytes(WINDOW)))
NAMES = st.sampled_from(["tiny", "openai", "chat", "messages", "", "provider_lost", "unknown_job"])

FRAMES: SearchStrategy[PeerFrame] = st.one_of(
    st.builds(
        Offer,
        st.just(AGENT_KEY),
        st.builds(JobHeader, JOB_IDS, NAMES, NAMES, st.integers(0, 40), st.integers(0, 9), NAMES),
        st.just(WINDOW),
    ),
    st.builds(RequestChunk, JOB_IDS, OFFSETS, DATA),
    st.builds(
        Renewal,
        st.lists(st.builds(RenewedJob, JOB_IDS, OFFSETS, OFFSETS, st.booleans()), max_size=3),
    ),
    st.builds(Ack, JOB_IDS, OFFSETS, st.booleans()),
    st.builds(Cancel, JOB_IDS),
    st.builds(JobStarted, JOB_IDS, st.integers(100, 599), NAMES, NAMES),
    st.builds(Chunk, JOB_IDS, OFFSETS, DATA),
    st.builds(JobResult, JOB_IDS, OFFSETS, st.just(Usage()), NAMES, st.just(1), st.none()),
    st.builds(JobError, JOB_IDS, OFFSETS, NAMES, NAMES),
    st.builds(Gone, JOB_IDS, NAMES),
    st.builds(AgentLost, JOB_IDS, st.booleans()),
)
SENDERS = st.sampled_from([EDGE, HOLDER, b"X" * 16])


def _receive(pair: ClusterPair, message: bytes) -> None:
    batch = decode_batch(message)
    for frame in batch.frames:
        if isinstance(frame, EdgeFrame):
            pair.holder.receive(batch.sender, frame)
        else:
            pair.edge.receive(batch.sender, frame)


@depth()
@given(st.lists(st.tuples(SENDERS, st.lists(FRAMES, min_size=1, max_size=3)), max_size=30))
def test_any_frames_raise_nothing_and_leave_nothing(
    messages: list[tuple[bytes, list[PeerFrame]]],
) -> None:
    pair = ClusterPair()
    for number in range(2):  # the other two ids are unknown to the edge
        pair.agent.submit(chat_job(number))
    pair.exchange()
    for sender, frames in messages:
        _receive(pair, encode_batch(sender, frames))
        pair.edge.next_frames(HOLDER, 10**9)
        pair.holder.next_frames(EDGE, 10**9)
    for sender in (EDGE, HOLDER, b"X" * 16):
        pair.edge.lose_holder(sender)
        pair.holder.drop_edge(sender)
    pair.edge.expire(0)  # a lost holder's jobs are kept for a while
    assert (len(pair.edge), len(pair.holder)) == (0, 0)


LIVE_JOBS = st.lists(
    st.builds(LiveJob, JOB_IDS, OFFSETS, OFFSETS, OFFSETS, st.booleans()), max_size=6
)


@depth()
@given(st.lists(st.tuples(st.sampled_from([AGENT_KEY, b"x" * 32]), LIVE_JOBS), max_size=6))
def test_any_takeovers_raise_nothing_and_leave_nothing(
    requests: list[tuple[bytes, list[LiveJob]]],
) -> None:
    pair = ClusterPair()
    for number in range(2):
        pair.agent.submit(chat_job(number))
    pair.exchange()
    for public_key, live_jobs in requests:
        for taken in pair.edge.move(TakeoverRequest(b"X" * 16, public_key, b"s" * 16, live_jobs)):
            assert public_key == AGENT_KEY
            assert taken.consumed <= taken.received
    pair.edge.remove(TakeoverRequest(EDGE, AGENT_KEY, b"s" * 16, []))
    for sender in (HOLDER, b"X" * 16):
        pair.edge.lose_holder(sender)
    pair.edge.expire(0)
    assert len(pair.edge) == 0


@depth()
@given(st.lists(FRAMES, max_size=30))
def test_a_third_coordinator_cannot_affect_a_job(frames: list[PeerFrame]) -> None:
    pair = ClusterPair()
    job = chat_job()
    running = pair.agent.submit(job)
    pair.exchange()
    pair.played.write(job, b"first,")
    for frame in frames:
        _receive(pair, encode_batch(b"X" * 16, [frame]))
    pair.played.write(job, b"second")
    pair.played.finish(job)
    pair.exchange()
    assert pair.read(running) == b"first,second"
    assert isinstance(running.end, JobResult)


@depth()
@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_rejected(message: bytes) -> None:
    decoders: tuple[Any, ...] = (
        decode_batch,
        decode_snapshot,
        decode_report,
        decode_request,
        decode_answer,
    )
    for decode in decoders:
        with contextlib.suppress(MalformedPeerMessage):
            decode(message)
    assert len(message) < MAX_MESSAGE_BYTES


KEYS = [key_id(bytes([number])) for number in range(3)]
COUNTS = st.one_of(st.integers(-1, 40), st.just(2**53 - 1), st.just(2**53))
USAGE = st.builds(KeyUsage, st.sampled_from([*KEYS, b""]), COUNTS, COUNTS, COUNTS, COUNTS)


@depth()
@given(st.lists(st.tuples(st.sampled_from([EDGE, b"X" * 16]), st.lists(USAGE, max_size=3))))
def test_any_reports_of_usage_block_a_key_for_no_longer_than_a_minute(
    reports: list[tuple[bytes, list[KeyUsage]]],
) -> None:
    clock = FakeClock()
    limits = KeyLimits(KEYS[:2], max_requests=10, max_tokens=10, clock=clock)
    exchange = UsageExchange(HOLDER, limits, lambda: {EDGE})
    for sender, usage in reports:
        with contextlib.suppress(MalformedPeerMessage):
            exchange.receive(msgspec.msgpack.encode(UsageReport(sender, usage)))
        clock.now += 1
    last_report_at = clock.now - 1
    for key in KEYS:
        reached = limits.accept(key)
        assert reached is None or 0 < reached.wait_s <= WINDOW_S + SLOT_S - (
            clock.now - last_report_at
        )
    clock.now += WINDOW_S + SLOT_S
    assert all(limits.accept(key) is None for key in KEYS)
