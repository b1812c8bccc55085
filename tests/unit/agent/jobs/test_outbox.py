import asyncio
from typing import Any

import pytest

from provider_agent.agent.jobs.outbox import FRAME_OVERHEAD_BYTES, Outbox
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    AgentLimits,
    Capabilities,
    Chunk,
    Draining,
    Heartbeat,
    JobError,
    JobResult,
    JobStarted,
    Usage,
)
from provider_agent.protocol.limits import (
    BATCH_BYTES,
    CHUNK_BYTES,
    KIB,
    MAX_ERROR_BODY_BYTES,
    MAX_FRAMES_PER_MESSAGE,
    MAX_LIVE_JOBS,
)
from tests.kit.job_channels import (
    RecordingSource,
    data_of,
    open_started,
    result_of,
    take_all_frames,
)

A, B, C = (bytes([number]) * 16 for number in (1, 2, 3))
WINDOW = 16 * KIB


def heartbeat(in_flight: int = 0) -> Heartbeat:
    return Heartbeat(in_flight, 0, 8, None, None, None, None)


def chunk_order(frames: list[AgentFrame]) -> list[bytes]:
    return [one.job_id for one in frames if isinstance(one, Chunk)]


async def test_a_response_is_sent_as_start_chunk_and_end() -> None:
    outbox = Outbox()
    channel, _ = open_started(outbox, A)
    channel.send_chunk(b"one ")
    channel.send_chunk(b"two")
    channel.finish(result_of(channel))
    assert outbox.next_batch() == [
        JobStarted(A, 200, "text/plain", "backend"),
        Chunk(A, 0, b"one two"),
        JobResult(A, 7, Usage(None, None), "b", 1, 1),
    ]
    assert outbox.next_batch() == []


async def test_control_frames_are_sent_before_chunks() -> None:
    outbox = Outbox()
    channel, _ = open_started(outbox, A)
    channel.send_chunk(b"x")
    outbox.put(heartbeat())
    outbox.put(Draining(1))
    assert outbox.next_batch() == [heartbeat(), Draining(1)]
    assert chunk_order(outbox.next_batch()) == [A]


async def test_a_control_frame_overtakes_queued_chunks() -> None:
    outbox = Outbox(4 * BATCH_BYTES)
    channel, _ = open_started(outbox, A)
    channel.send_chunk(bytes(4 * BATCH_BYTES))
    outbox.next_batch()
    outbox.put(heartbeat())
    assert outbox.next_batch() == [heartbeat()]


async def test_a_newer_control_frame_replaces_an_unsent_one_of_its_type() -> None:
    outbox = Outbox()
    for number in range(100):
        outbox.put(heartbeat(number))
        outbox.put(Capabilities(number, [], AgentLimits(1)))
    assert outbox.next_batch() == [heartbeat(99), Capabilities(99, [], AgentLimits(1))]
    assert outbox.next_batch() == []


async def test_jobs_take_turns() -> None:
    outbox = Outbox(10 * CHUNK_BYTES)
    for job_id in (A, B, C):
        open_started(outbox, job_id)[0].send_chunk(bytes(3 * CHUNK_BYTES))
    sent = {A: 0, B: 0, C: 0}
    for frame in take_all_frames(outbox):
        if isinstance(frame, Chunk):
            sent[frame.job_id] += len(frame.data)
            assert max(sent.values()) - min(sent.values()) <= 2 * CHUNK_BYTES
    assert set(sent.values()) == {3 * CHUNK_BYTES}


async def test_a_long_response_does_not_delay_a_short_one() -> None:
    outbox = Outbox(100 * CHUNK_BYTES)
    long, _ = open_started(outbox, A)
    long.send_chunk(bytes(50 * CHUNK_BYTES))
    outbox.next_batch()
    short, _ = open_started(outbox, B)
    short.send_chunk(b"hello")
    short.finish(result_of(short))
    sent = outbox.next_batch() + outbox.next_batch()
    assert JobResult(B, 5, Usage(None, None), "b", 1, 1) in sent


@pytest.mark.parametrize("piece_bytes", [1, 1000, CHUNK_BYTES, 3 * CHUNK_BYTES])
async def test_batches_exceed_the_limit_only_by_frame_overhead(piece_bytes: int) -> None:
    outbox = Outbox(1024 * KIB)
    for job_id in (A, B, C):
        channel, _ = open_started(outbox, job_id)
        for _ in range(512 * KIB // piece_bytes if piece_bytes > 1 else 5):
            channel.send_chunk(bytes(piece_bytes))
    while batch := outbox.next_batch():
        assert len(VERSION_1.encode(batch)) <= BATCH_BYTES + FRAME_OVERHEAD_BYTES * (len(batch) + 1)


async def test_batches_stay_within_size_and_frame_limits() -> None:
    outbox = Outbox()
    for number in range(MAX_LIVE_JOBS):
        channel, _ = open_started(outbox, number.to_bytes(16, "big"))
        channel.send_chunk(b"x")
        body = bytes(MAX_ERROR_BODY_BYTES) if number % 100 == 0 else b""
        channel.finish(JobError(channel.stream.job_id, 1, "backend_error", "m", body=body))
    ends = 0
    while batch := outbox.next_batch():
        message = VERSION_1.encode(batch)
        assert len(message) <= 2 * BATCH_BYTES
        assert len(batch) <= MAX_FRAMES_PER_MESSAGE
        ends += sum(isinstance(one, JobError) for one in batch)
    assert ends == MAX_LIVE_JOBS


async def test_a_full_window_pauses_only_its_own_response() -> None:
    outbox = Outbox(WINDOW)
    full, full_source = open_started(outbox, A)
    other, other_source = open_started(outbox, B)
    full.send_chunk(bytes(WINDOW - 1))
    assert full_source.calls == []
    full.send_chunk(b"x")
    other.send_chunk(b"x")
    assert full_source.calls == ["pause"]
    assert other_source.calls == []


async def test_bytes_written_after_a_pause_are_kept_without_a_second_pause() -> None:
    outbox = Outbox(WINDOW)
    channel, source = open_started(outbox, A)
    channel.send_chunk(bytes(WINDOW))
    channel.send_chunk(b"late")
    assert source.calls == ["pause"]
    frames = take_all_frames(outbox)
    assert len(data_of(frames, A)) == WINDOW, "the rest waits for an acknowledgement"
    outbox.acknowledge(Ack(A, WINDOW))
    assert take_all_frames(outbox) == [Chunk(A, WINDOW, b"late")]


async def test_the_source_resumes_when_half_of_the_window_is_free() -> None:
    outbox = Outbox(WINDOW)
    channel, source = open_started(outbox, A)
    channel.send_chunk(bytes(WINDOW))
    take_all_frames(outbox)
    outbox.acknowledge(Ack(A, WINDOW // 2 - 1))
    assert source.calls == ["pause"]
    outbox.acknowledge(Ack(A, WINDOW // 2))
    assert source.calls == ["pause", "resume"]
    outbox.acknowledge(Ack(A, WINDOW))
    assert source.calls == ["pause", "resume"]
    channel.send_chunk(bytes(WINDOW))
    assert source.calls == ["pause", "resume", "pause"]


async def test_a_finished_job_makes_no_more_flow_control_calls() -> None:
    outbox = Outbox(WINDOW)
    channel, source = open_started(outbox, A)
    channel.send_chunk(bytes(WINDOW))
    channel.finish(result_of(channel))
    take_all_frames(outbox)
    outbox.acknowledge(Ack(A, WINDOW))
    channel.send_chunk(b"bytes read after the end")
    assert source.calls == ["pause"]
    assert channel.stream.written == WINDOW


async def test_acknowledgements_of_unknown_jobs_are_ignored() -> None:
    outbox = Outbox()
    outbox.acknowledge(Ack(A, 10**9, final=True))
    assert A not in outbox


async def test_acknowledging_unsent_bytes_is_a_protocol_violation() -> None:
    outbox = Outbox()
    channel, _ = open_started(outbox, A)
    channel.send_chunk(b"four")
    with pytest.raises(ProtocolViolation):
        outbox.acknowledge(Ack(A, 4))


async def test_a_channel_is_kept_until_its_end_is_acknowledged() -> None:
    outbox = Outbox()
    channel, _ = open_started(outbox, A)
    channel.send_chunk(b"four")
    channel.finish(result_of(channel))
    take_all_frames(outbox)
    outbox.acknowledge(Ack(A, 4))
    assert A in outbox
    outbox.acknowledge(Ack(A, 4, final=True))
    assert A not in outbox
    assert repr(outbox).startswith("<Outbox control=0 channels=0 ready=0 held_bytes=0")


async def test_too_many_channels_are_a_protocol_violation() -> None:
    outbox = Outbox()
    for number in range(MAX_LIVE_JOBS):
        outbox.open(number.to_bytes(16, "big"))
    with pytest.raises(ProtocolViolation, match="more jobs"):
        outbox.open(b"x" * 16)


async def test_set_window_applies_to_channels_opened_later() -> None:
    outbox = Outbox(WINDOW)
    before, _ = open_started(outbox, A)
    outbox.set_window(2 * WINDOW)
    after, _ = open_started(outbox, B)
    assert (before.stream.window, after.stream.window) == (WINDOW, 2 * WINDOW)


async def test_bytes_before_the_start_are_rejected() -> None:
    channel = Outbox().open(A)
    with pytest.raises(RuntimeError, match="before it called"):
        channel.send_chunk(b"x")


@pytest.mark.parametrize("data", [bytearray(b"x"), memoryview(b"x"), "x", None])
async def test_only_bytes_are_accepted(data: Any) -> None:
    # A text broke the next message, and so the link of all jobs.
    outbox = Outbox()
    channel, _ = open_started(outbox, A)
    with pytest.raises(TypeError, match="bytes"):
        channel.send_chunk(data)
    assert chunk_order(outbox.next_batch()) == []


@pytest.mark.parametrize("status", [0, 99, 600, 999])
async def test_a_status_outside_100_to_599_is_rejected(status: int) -> None:
    with pytest.raises(ValueError, match="status"):
        Outbox().open(A).started(status, "text/plain", RecordingSource(), {})


# --- notification -----------------------------------------------------------------------------


def count_calls(outbox: Outbox) -> list[None]:
    """Return a list that gets one element for each call of `on_ready`."""
    calls: list[None] = []
    outbox.on_ready = lambda: calls.append(None)
    return calls


async def test_first_frame_of_a_batch_is_announced() -> None:
    outbox = Outbox(WINDOW)
    calls = count_calls(outbox)
    outbox.put(heartbeat())
    assert len(calls) == 1
    take_all_frames(outbox)
    channels = [open_started(outbox, job_id)[0] for job_id in (A, B)]
    for channel in channels:
        channel.send_chunk(b"x")
    assert len(calls) == 2, "the others go into the same batch"
    take_all_frames(outbox)
    channels[0].send_chunk(b"y")
    assert len(calls) == 3


async def test_acknowledgement_announces_what_the_window_has_held_back() -> None:
    outbox = Outbox(WINDOW)
    channel, _ = open_started(outbox, A)
    channel.send_chunk(bytes(WINDOW + 1))
    take_all_frames(outbox)
    assert not outbox.has_frames
    calls = count_calls(outbox)
    outbox.acknowledge(Ack(A, WINDOW))
    assert len(calls) == 1
    assert take_all_frames(outbox) == [Chunk(A, WINDOW, b"\0")]


async def test_bytes_behind_a_full_window_wait() -> None:
    outbox = Outbox(WINDOW)
    channel, _ = open_started(outbox, A)
    channel.send_chunk(bytes(2 * WINDOW))
    take_all_frames(outbox)
    channel.send_chunk(b"x")
    assert outbox.next_batch() == []


async def test_waiting_for_acknowledgements_ends_with_the_last_one() -> None:
    outbox = Outbox()
    await outbox.wait_until_acknowledged()
    channels = [open_started(outbox, job_id)[0] for job_id in (A, B)]
    waiting = asyncio.create_task(outbox.wait_until_acknowledged())
    for channel in channels:
        channel.finish(result_of(channel))
    take_all_frames(outbox)
    outbox.acknowledge(Ack(A, 0, final=True))
    await asyncio.sleep(0)
    assert not waiting.done()
    outbox.acknowledge(Ack(B, 0, final=True))
    await waiting


# --- resumption ---------------------------------------------------------------------------------


async def test_resume_discards_jobs_that_the_coordinator_does_not_list() -> None:
    outbox = Outbox()
    channel, _ = open_started(outbox, A)
    channel.send_chunk(b"x")
    waiting = asyncio.create_task(outbox.wait_until_acknowledged())
    await asyncio.sleep(0)
    assert outbox.resume({}) == [A]
    await waiting
    assert A not in outbox
    assert outbox.next_batch() == []
    channel.send_chunk(b"bytes of a job that is still running")
    assert not outbox.has_frames
