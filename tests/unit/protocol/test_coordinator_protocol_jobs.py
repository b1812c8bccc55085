import pytest

from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    Cancel,
    Chunk,
    CoordinatorFrame,
    JobError,
    JobHeader,
    JobResult,
    JobStarted,
    RequestChunk,
    Usage,
)
from provider_agent.protocol.limits import MIN_WINDOW_BYTES
from provider_agent.protocol.state import State
from tests.unit.protocol.protocols import (
    JOB,
    JOB_ID,
    OTHER_ID,
    STARTED,
    make_agent,
    make_coordinator_in,
    make_coordinator_with_job,
)


def test_a_response_is_passed_on_and_its_end_is_acknowledged() -> None:
    protocol = make_coordinator_with_job()
    chunk = Chunk(JOB_ID, 0, b"abc")
    end = JobResult(JOB_ID, 3, Usage(1, 2), "b", 10, 5)

    assert protocol.receive(STARTED) is STARTED
    assert protocol.receive(chunk) is chunk
    assert protocol.receive(end) is end

    assert protocol.to_send == [Ack(JOB_ID, 3, final=True)]
    assert protocol.streams == {}


@pytest.mark.parametrize("limit_bytes", [1, 300, 8192])
def test_a_request_never_overtakes_a_control_frame(limit_bytes: int) -> None:
    # An agent drops a piece that arrives before its `JobHeader`, and the job never starts.
    protocol = make_coordinator_in(State.OPEN)
    for _ in range(200):
        protocol.to_send.append(Cancel(OTHER_ID, ""))
    protocol.start_job(JOB)
    frames: list[CoordinatorFrame] = []
    while batch := protocol.next_frames(limit_bytes):
        frames += batch
    first_piece = next(i for i, frame in enumerate(frames) if isinstance(frame, RequestChunk))
    assert not any(isinstance(frame, Cancel | JobHeader) for frame in frames[first_piece:])


def test_a_job_may_fail_before_it_started() -> None:
    protocol = make_coordinator_with_job()
    end = JobError(JOB_ID, 0, "out_of_capacity", "Full.")

    assert protocol.receive(end) is end
    assert protocol.to_send == [Ack(JOB_ID, 0, final=True)]


def test_an_ack_is_sent_per_quarter_of_the_window() -> None:
    protocol = make_coordinator_with_job()
    protocol.receive(STARTED)
    quarter = MIN_WINDOW_BYTES // 4
    protocol.receive(Chunk(JOB_ID, 0, bytes(quarter)))

    protocol.consumed(JOB_ID, quarter - 1)
    assert protocol.to_send == []
    protocol.consumed(JOB_ID, 1)
    assert protocol.to_send == [Ack(JOB_ID, quarter)]


def test_acknowledge_covers_all_bytes_that_were_passed_on() -> None:
    protocol = make_coordinator_with_job()
    protocol.receive(STARTED)
    protocol.receive(Chunk(JOB_ID, 0, b"abc"))

    protocol.consumed(JOB_ID, 2)
    assert protocol.acknowledge()
    protocol.consumed(JOB_ID, 1)
    assert not protocol.acknowledge()
    assert not protocol.acknowledge()
    assert protocol.to_send == [Ack(JOB_ID, 2), Ack(JOB_ID, 3)]


def test_repeated_bytes_are_passed_on_once() -> None:
    protocol = make_coordinator_with_job()
    protocol.receive(STARTED)
    protocol.receive(Chunk(JOB_ID, 0, b"abc"))

    assert protocol.receive(Chunk(JOB_ID, 0, b"abc")) is None
    assert protocol.receive(Chunk(JOB_ID, 1, b"bcde")) == Chunk(JOB_ID, 3, b"de")


@pytest.mark.parametrize(
    ("before", "bad"),
    [
        pytest.param([], Chunk(JOB_ID, 0, b"x"), id="chunk before the start"),
        pytest.param([STARTED], STARTED, id="second start"),
        pytest.param([STARTED], Chunk(JOB_ID, 1, b"x"), id="gap"),
        pytest.param([STARTED], Chunk(JOB_ID, 0, b""), id="empty chunk"),
        pytest.param(
            [STARTED], Chunk(JOB_ID, 0, bytes(MIN_WINDOW_BYTES + 1)), id="over the window"
        ),
        pytest.param(
            [STARTED], JobResult(JOB_ID, 1, Usage(0, 0), "b", 1, 1), id="total_bytes too large"
        ),
        pytest.param(
            [STARTED, Chunk(JOB_ID, 0, b"ab")],
            JobError(JOB_ID, 1, "internal", ""),
            id="total_bytes too small",
        ),
    ],
)
def test_an_invalid_response_is_a_violation(before: list[AgentFrame], bad: AgentFrame) -> None:
    protocol = make_coordinator_with_job()
    for frame in before:
        protocol.receive(frame)

    with pytest.raises(ProtocolViolation):
        protocol.receive(bad)


@pytest.mark.parametrize(
    ("frame", "answer"),
    [
        (JobStarted(OTHER_ID, 200, "", ""), []),
        (Chunk(OTHER_ID, 7, b"x"), []),
        (Chunk(OTHER_ID, 0, b""), []),
        (JobResult(OTHER_ID, 9, Usage(None, None), "b", 1, None), [Ack(OTHER_ID, 9, final=True)]),
        (JobError(OTHER_ID, 4, "internal", ""), [Ack(OTHER_ID, 4, final=True)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_frames_of_an_unknown_job_are_ignored_but_its_end_is_acknowledged(
    frame: AgentFrame, answer: list[CoordinatorFrame]
) -> None:
    protocol = make_coordinator_with_job()

    assert protocol.receive(frame) is None
    assert protocol.to_send == answer


def test_a_job_id_in_use_is_rejected() -> None:
    protocol = make_coordinator_with_job()

    with pytest.raises(RuntimeError):
        protocol.start_job(JOB)


@pytest.mark.parametrize("state", [State.AWAITING_HELLO, State.AUTHENTICATED, State.CLOSED])
def test_a_job_requires_an_open_link(state: State) -> None:
    with pytest.raises(RuntimeError):
        make_coordinator_in(state).start_job(JOB)


def test_a_cancelled_job_keeps_its_stream_until_its_end() -> None:
    protocol = make_coordinator_with_job()

    protocol.cancel_job(JOB_ID, "client gone")

    assert protocol.to_send == [Cancel(JOB_ID, "client gone")]
    assert JOB_ID in protocol.streams


def test_cancel_and_consume_after_the_end_have_no_effect() -> None:
    protocol = make_coordinator_with_job()
    protocol.receive(JobError(JOB_ID, 0, "internal", ""))
    protocol.to_send.clear()

    protocol.cancel_job(JOB_ID, "late")
    protocol.consumed(JOB_ID, 10**6)

    assert protocol.to_send == []


def test_repr_shows_the_state() -> None:
    assert repr(make_agent()) == "<AgentProtocol awaiting_challenge to coordinator.example:443>"
    assert repr(make_coordinator_with_job()) == "<CoordinatorProtocol open jobs=1>"
