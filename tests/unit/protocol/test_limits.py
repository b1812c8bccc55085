from uuid import uuid4

from provider_agent.protocol import limits
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    AgentLimits,
    Capabilities,
    Chunk,
    ModelOffer,
    RequestChunk,
    ResumedJob,
    Welcome,
)

JOB_ID = uuid4().bytes


def test_the_largest_welcome_fits_into_a_message_to_an_agent() -> None:
    name = "\N{GRINNING FACE}" * limits.MAX_NAME_CHARS
    resumed = [ResumedJob(JOB_ID, limits.MAX_INTEGER, ended=True)] * limits.MAX_LIVE_JOBS
    features = [name] * limits.MAX_FEATURES

    message = VERSION_1.encode([Welcome(name, JOB_ID, 100, 1, 1, 1, resumed, features)])

    assert len(message) < limits.MAX_MESSAGE_TO_AGENT_BYTES


def test_a_full_batch_of_request_pieces_fits_into_a_message_to_an_agent() -> None:
    chunks = limits.BATCH_BYTES // limits.CHUNK_BYTES + 1
    pieces = [RequestChunk(JOB_ID, limits.MAX_INTEGER, bytes(limits.CHUNK_BYTES))] * chunks

    assert len(VERSION_1.encode(pieces)) < limits.MAX_MESSAGE_TO_AGENT_BYTES


def test_a_full_batch_plus_one_chunk_fits_into_the_smallest_message_limit() -> None:
    chunks = limits.BATCH_BYTES // limits.CHUNK_BYTES + 1
    frames: list[AgentFrame] = [
        Chunk(JOB_ID, limits.MAX_INTEGER, bytes(limits.CHUNK_BYTES))
    ] * chunks

    assert len(VERSION_1.encode(frames)) < limits.MIN_MESSAGE_TO_COORDINATOR_BYTES


def test_a_batch_of_the_smallest_job_frames_is_within_the_frame_limit() -> None:
    one_byte = len(VERSION_1.encode([Chunk(JOB_ID, 0, b"x")]))
    ack = len(VERSION_1.encode([Ack(JOB_ID, 0)]))

    assert limits.BATCH_BYTES // min(one_byte, ack) < limits.MAX_FRAMES_PER_MESSAGE


def test_a_large_catalog_fits_into_the_smallest_message_limit() -> None:
    # The largest passthrough offers a few hundred models with names of a few dozen characters.
    offer = ModelOffer("m" * 60, ["openai"], ["chat", "completions"], 2**20, False, "x", 64, 9, 9)

    message = VERSION_1.encode([Capabilities(1, [offer] * 4096, AgentLimits(64))])

    assert len(message) < limits.MIN_MESSAGE_TO_COORDINATOR_BYTES


def test_the_smallest_window_is_acknowledged_in_steps_of_at_least_4_kib() -> None:
    assert limits.MIN_WINDOW_BYTES // 4 >= 4 * limits.KIB


def test_the_default_window_is_not_below_the_smallest() -> None:
    assert limits.MIN_WINDOW_BYTES <= limits.WINDOW_BYTES


def test_a_chunk_fits_into_a_batch() -> None:
    assert limits.CHUNK_BYTES <= limits.BATCH_BYTES
