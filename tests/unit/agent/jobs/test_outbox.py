import asyncio

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
)
from provider_agent.protocol.limits import (
    BATCH_BYTES,
    CHUNK_BYTES,
    KIB,
    MAX_ERROR_BODY_BYTES,
    MAX_FRAMES_PER_MESSAGE,
    MAX_LIVE_JOBS,
    MAX_NAME_CHARS,
)
from tests.kit.job_channels import Source, begin, data_of, drained, result

A, B, C = (bytes([number]) * 16 for number in (1, 2, 3))
WINDOW = 16 * KIB


def heartbeat(in_flight: int = 0) -> Heartbeat:
    return Heartbeat(in_flight, 0, 8, None, None, None, None)


def order(frames: list[AgentFrame]) -> list[bytes]:
    return [one.job_id for one in frames if isinstance(one, Chunk)]


async def test_a_response_goes_out_as_start_bytes_end() -> None:
    outbox = Outbox()
    channel, _ = begin(outbox, A)
    channel.send_chunk(b"one ")
    channel.send_chunk(b"two")
    channel.finish(result(channel))
    assert outbox.next_batch() == [
        JobStarted(A, 200, "text/plain", "backend"),
        Chunk(A, 0, b"one two"),
        JobResult(A, 7, None, None, 1, 1),
    ]
    assert outbox.next_batch() == []


async def test_control_frames_go_before_data() -> None:
    outbox = Outbox()
    channel, _ = begin(outbox, A)
    channel.send_chunk(b"x")
    outbox.put(heartbeat())
    outbox.put(Draining(1))
    assert outbox.next_batch() == [heartbeat(), Draining(1)]
    assert order(outbox.next_batch()) == [A]


async def test_a_control_frame_waits_behind_no_more_than_one_message() -> None:
    outbox = Outbox(4 * BATCH_BYTES)
    channel, _ = begin(outbox, A)
    channel.send_chunk(bytes(4 * BATCH_BYTES))
    outbox.next_batch()
    outbox.put(heartbeat())
    assert outbox.next_batch() == [heartbeat()]


async def test_only_the_newest_unsent_control_frame_of_a_type_is_kept() -> None:
    outbox = Outbox()
    for number in range(100):
        outbox.put(heartbeat(number))
        outbox.put(Capabilities(number, [], AgentLimits(1)))
    assert outbox.next_batch() == [heartbeat(99), Capabilities(99, [], AgentLimits(1))]
    assert outbox.next_batch() == []


async def test_jobs_take_turns() -> None:
    outbox = Outbox(10 * CHUNK_BYTES)
    for job_id in (A, B, C):
        begin(outbox, job_id)[0].send_chunk(bytes(3 * CHUNK_BYTES))
    sent = {A: 0, B: 0, C: 0}
    for frame in drained(outbox):
        if isinstance(frame, Chunk):
            sent[frame.job_id] += len(frame.data)
            assert max(sent.values()) - min(sent.values()) <= 2 * CHUNK_BYTES
    assert set(sent.values()) == {3 * CHUNK_BYTES}


async def test_a_long_answer_does_not_hold_up_a_short_one() -> None:
    outbox = Outbox(100 * CHUNK_BYTES)
    long, _ = begin(outbox, A)
    long.send_chunk(bytes(50 * CHUNK_BYTES))
    outbox.next_batch()
    short, _ = begin(outbox, B)
    short.send_chunk(b"hello")
    short.finish(result(short))
    sent = outbox.next_batch() + outbox.next_batch()
    assert JobResult(B, 5, None, None, 1, 1) in sent


@pytest.mark.parametrize("piece_bytes", [1, 1000, CHUNK_BYTES, 3 * CHUNK_BYTES])
async def test_no_message_is_much_bigger_than_the_batch_bound(piece_bytes: int) -> None:
    outbox = Outbox(1024 * KIB)
    for job_id in (A, B, C):
        channel, _ = begin(outbox, job_id)
        for _ in range(512 * KIB // piece_bytes if piece_bytes > 1 else 5):
            channel.send_chunk(bytes(piece_bytes))
    while batch := outbox.next_batch():
        assert len(VERSION_1.encode(batch)) <= BATCH_BYTES + FRAME_OVERHEAD_BYTES * (len(batch) + 1)


async def test_messages_of_many_tiny_answers_and_of_fat_errors_stay_in_the_limits() -> None:
    outbox = Outbox()
    for number in range(MAX_LIVE_JOBS):
        channel, _ = begin(outbox, number.to_bytes(16, "big"))
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


async def test_a_full_window_pauses_its_source_and_no_other() -> None:
    outbox = Outbox(WINDOW)
    full, full_source = begin(outbox, A)
    other, other_source = begin(outbox, B)
    full.send_chunk(bytes(WINDOW - 1))
    assert full_source.calls == []
    full.send_chunk(b"x")
    other.send_chunk(b"x")
    assert full_source.calls == ["pause"]
    assert other_source.calls == []


async def test_what_still_arrives_after_the_pause_is_kept_and_pauses_once() -> None:
    outbox = Outbox(WINDOW)
    channel, source = begin(outbox, A)
    channel.send_chunk(bytes(WINDOW))
    channel.send_chunk(b"late")
    assert source.calls == ["pause"]
    frames = drained(outbox)
    assert len(data_of(frames, A)) == WINDOW, "the rest waits for an acknowledgement"
    outbox.acknowledge(Ack(A, WINDOW))
    assert drained(outbox) == [Chunk(A, WINDOW, b"late")]


async def test_half_a_free_window_resumes_the_source() -> None:
    outbox = Outbox(WINDOW)
    channel, source = begin(outbox, A)
    channel.send_chunk(bytes(WINDOW))
    drained(outbox)
    outbox.acknowledge(Ack(A, WINDOW // 2 - 1))
    assert source.calls == ["pause"]
    outbox.acknowledge(Ack(A, WINDOW // 2))
    assert source.calls == ["pause", "resume"]
    outbox.acknowledge(Ack(A, WINDOW))
    assert source.calls == ["pause", "resume"]
    channel.send_chunk(bytes(WINDOW))
    assert source.calls == ["pause", "resume", "pause"]


async def test_an_ended_job_leaves_its_source_alone() -> None:
    outbox = Outbox(WINDOW)
    channel, source = begin(outbox, A)
    channel.send_chunk(bytes(WINDOW))
    channel.finish(result(channel))
    drained(outbox)
    outbox.acknowledge(Ack(A, WINDOW))
    channel.send_chunk(b"a last read of a cancelled transport")
    assert source.calls == ["pause"]
    assert channel.stream.written == WINDOW


async def test_acknowledgements_of_unknown_jobs_are_ignored() -> None:
    outbox = Outbox()
    outbox.acknowledge(Ack(A, 10**9, final=True))
    assert A not in outbox


async def test_an_acknowledgement_of_what_was_never_sent_is_a_violation() -> None:
    outbox = Outbox()
    channel, _ = begin(outbox, A)
    channel.send_chunk(b"four")
    with pytest.raises(ProtocolViolation):
        outbox.acknowledge(Ack(A, 4))


async def test_a_channel_is_kept_until_its_end_is_acknowledged() -> None:
    outbox = Outbox()
    channel, _ = begin(outbox, A)
    channel.send_chunk(b"four")
    channel.finish(result(channel))
    drained(outbox)
    outbox.acknowledge(Ack(A, 4))
    assert A in outbox
    outbox.acknowledge(Ack(A, 4, final=True))
    assert A not in outbox
    assert repr(outbox).startswith("<Outbox control=0 channels=0 ready=0 held_bytes=0")


async def test_no_more_channels_than_an_agent_holds() -> None:
    outbox = Outbox()
    for number in range(MAX_LIVE_JOBS):
        outbox.open(number.to_bytes(16, "big"))
    with pytest.raises(ProtocolViolation, match="more jobs"):
        outbox.open(b"x" * 16)


async def test_the_window_of_a_welcome_counts_for_channels_opened_after_it() -> None:
    outbox = Outbox(WINDOW)
    before, _ = begin(outbox, A)
    outbox.set_window(2 * WINDOW)
    after, _ = begin(outbox, B)
    assert (before.stream.window, after.stream.window) == (WINDOW, 2 * WINDOW)


async def test_bytes_before_the_start_are_a_defect_of_the_adapter() -> None:
    channel = Outbox().open(A)
    with pytest.raises(RuntimeError, match="before the response"):
        channel.send_chunk(b"x")


@pytest.mark.parametrize("status", [0, 99, 600, 999])
async def test_a_status_that_no_frame_can_carry_is_a_defect_of_the_adapter(status: int) -> None:
    with pytest.raises(ValueError, match="status"):
        Outbox().open(A).started(status, "text/plain", Source())


async def test_an_endless_content_type_is_cut() -> None:
    outbox = Outbox()
    outbox.open(A).started(200, "x" * 10_000, Source())
    assert outbox.next_batch() == [JobStarted(A, 200, "x" * MAX_NAME_CHARS, "")]


# --- waiting --------------------------------------------------------------------------------------


async def waits(outbox: Outbox) -> bool:
    """Whether `wait` has nothing to return for."""
    waiting = asyncio.create_task(outbox.wait())
    for _ in range(3):
        await asyncio.sleep(0)
    done = waiting.done()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    return not done


async def test_wait_returns_when_there_is_something_and_only_then() -> None:
    outbox = Outbox()
    assert await waits(outbox)
    outbox.put(heartbeat())
    assert not await waits(outbox)
    assert not await waits(outbox), "cancelled or not, what is there stays there"
    outbox.next_batch()
    assert await waits(outbox)


async def test_wait_is_woken_by_a_control_frame_a_byte_and_an_acknowledgement() -> None:
    outbox = Outbox(WINDOW)

    async def woken() -> asyncio.Task[None]:
        task = asyncio.create_task(outbox.wait())
        await asyncio.sleep(0)
        assert not task.done()
        return task

    task = await woken()
    outbox.put(heartbeat())
    await task
    drained(outbox)
    task = await woken()
    channel, _ = begin(outbox, A)
    channel.send_chunk(bytes(WINDOW + 1))
    await task
    drained(outbox)
    task = await woken()
    outbox.acknowledge(Ack(A, WINDOW))
    await task
    assert drained(outbox) == [Chunk(A, WINDOW, b"\0")]


async def test_a_full_window_is_nothing_to_send() -> None:
    outbox = Outbox(WINDOW)
    channel, _ = begin(outbox, A)
    channel.send_chunk(bytes(2 * WINDOW))
    drained(outbox)
    assert await waits(outbox)


async def test_waiting_for_acknowledgements_ends_with_the_last_of_them() -> None:
    outbox = Outbox()
    await outbox.wait_until_acknowledged()
    channels = [begin(outbox, job_id)[0] for job_id in (A, B)]
    waiting = asyncio.create_task(outbox.wait_until_acknowledged())
    for channel in channels:
        channel.finish(result(channel))
    drained(outbox)
    outbox.acknowledge(Ack(A, 0, final=True))
    await asyncio.sleep(0)
    assert not waiting.done()
    outbox.acknowledge(Ack(B, 0, final=True))
    await waiting


async def test_what_nobody_goes_on_with_is_forgotten_and_not_waited_for() -> None:
    outbox = Outbox()
    channel, _ = begin(outbox, A)
    channel.send_chunk(b"x")
    waiting = asyncio.create_task(outbox.wait_until_acknowledged())
    await asyncio.sleep(0)
    assert outbox.resume({}) == [A]
    await waiting
    assert A not in outbox
    assert outbox.next_batch() == []
    channel.send_chunk(b"from a job that does not know it yet")
    assert outbox.next_batch() == []
    assert await waits(outbox)
