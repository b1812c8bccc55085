import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import RequestChunk
from provider_agent.protocol.limits import CHUNK_BYTES
from provider_agent.protocol.request import RequestBuffer, RequestQueue

JOB_ID = b"\x0b" * 16
OTHER_ID = b"\x0c" * 16


def pop_all_chunks(queue: RequestQueue, limit_bytes: int) -> list[RequestChunk]:
    chunks = []
    while chunk := queue.next_chunk(limit_bytes):
        chunks.append(chunk)
    return chunks


def test_requests_take_turns() -> None:
    queue = RequestQueue()
    queue.add(JOB_ID, b"aaaa")
    queue.add(OTHER_ID, b"bb")

    sent = [(chunk.job_id, chunk.offset, chunk.data) for chunk in pop_all_chunks(queue, 2)]

    assert sent == [(JOB_ID, 0, b"aa"), (OTHER_ID, 0, b"bb"), (JOB_ID, 2, b"aa")]
    assert not queue


def test_a_piece_has_at_most_64_kib() -> None:
    queue = RequestQueue()
    queue.add(JOB_ID, bytes(CHUNK_BYTES + 1))

    assert [len(chunk.data) for chunk in pop_all_chunks(queue, 10 * CHUNK_BYTES)] == [
        CHUNK_BYTES,
        1,
    ]


def test_unsent_bytes_are_counted() -> None:
    queue = RequestQueue()
    queue.add(JOB_ID, b"abcdef")
    queue.add(OTHER_ID, b"abcdef", 4)
    assert queue.unsent_bytes == 8
    queue.next_chunk(1)
    assert queue.unsent_bytes == 7
    queue.drop(JOB_ID)
    queue.drop(JOB_ID)
    assert queue.unsent_bytes == 2
    pop_all_chunks(queue, 1)
    assert queue.unsent_bytes == 0


def test_a_request_without_remaining_bytes_is_not_queued() -> None:
    queue = RequestQueue()
    queue.add(JOB_ID, b"")
    queue.add(OTHER_ID, b"ab", 2)

    assert queue.next_chunk(100) is None


@given(st.binary(min_size=1, max_size=200), st.integers(1, 50), st.data())
def test_a_request_arrives_whole_however_it_is_cut_and_repeated(
    request: bytes, limit_bytes: int, data: st.DataObject
) -> None:
    buffer = RequestBuffer(len(request))
    while not buffer.complete:
        queue = RequestQueue()  # the queue of a new link may repeat bytes
        queue.add(JOB_ID, request, data.draw(st.integers(0, buffer.received)))
        chunks = pop_all_chunks(queue, limit_bytes)
        for chunk in chunks[: data.draw(st.integers(1, len(chunks)))]:
            buffer.receive(chunk)

    assert buffer.take() == request


@pytest.mark.parametrize(
    "chunk",
    [
        pytest.param(RequestChunk(JOB_ID, 3, b"x"), id="gap"),
        pytest.param(RequestChunk(JOB_ID, 2, b""), id="empty"),
        pytest.param(RequestChunk(JOB_ID, 2, b"xyz"), id="beyond the size"),
        pytest.param(RequestChunk(JOB_ID, 0, b"abxyz"), id="repeats, and beyond the size"),
    ],
)
def test_an_invalid_piece_is_a_violation(chunk: RequestChunk) -> None:
    buffer = RequestBuffer(4)
    buffer.receive(RequestChunk(JOB_ID, 0, b"ab"))

    with pytest.raises(ProtocolViolation):
        buffer.receive(chunk)

    assert buffer.received == 2


def test_a_whole_request_is_one_piece_whatever_the_limit() -> None:
    queue = RequestQueue(whole=True)
    request = bytes(3 * CHUNK_BYTES)
    queue.add(JOB_ID, request)
    queue.add(OTHER_ID, b"{}")

    assert queue.next_chunk(1) == RequestChunk(JOB_ID, 0, request)
    assert queue.unsent_bytes == 2
    assert queue.next_chunk(1) == RequestChunk(OTHER_ID, 0, b"{}")
    assert queue.next_chunk(1) is None
