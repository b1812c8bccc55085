import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from protocol.exceptions import ProtocolViolation
from protocol.frames import AgentFrame, Chunk, JobError, JobResult, JobStarted
from protocol.stream import ReceiveStream, SendStream

JOB_ID = b"\x0b" * 16
STARTED = JobStarted(JOB_ID, 200, "text/event-stream", "echo")


def result(total_bytes: int) -> JobResult:
    return JobResult(JOB_ID, total_bytes, 1, 1, 10, 5)


def chunk(offset: int, data: bytes) -> Chunk:
    return Chunk(JOB_ID, offset, data)


def started_stream(window: int = 8) -> SendStream:
    stream = SendStream(JOB_ID, window)
    stream.start(STARTED)
    assert stream.next_frames() == [STARTED]
    return stream


def take_all(stream: SendStream, budget: int) -> list[AgentFrame]:
    frames: list[AgentFrame] = []
    while stream.ready:
        frames += stream.next_frames(budget)
    return frames


# --- sending --------------------------------------------------------------------------------------


def test_frames_come_as_start_data_end() -> None:
    stream = SendStream(JOB_ID, 8)
    stream.start(STARTED)
    stream.write(b"abc")
    stream.finish(result(3))

    assert stream.next_frames() == [STARTED, chunk(0, b"abc"), result(3)]
    assert stream.next_frames() == []


def test_small_writes_share_a_chunk() -> None:
    stream = started_stream()
    stream.write(b"ab")
    stream.write(b"")
    stream.write(b"cd")

    assert stream.next_frames() == [chunk(0, b"abcd")]


def test_one_turn_takes_no_more_than_its_budget() -> None:
    stream = started_stream()
    stream.write(b"abcdef")

    assert stream.next_frames(budget=4) == [chunk(0, b"abcd")]
    assert stream.next_frames(budget=4) == [chunk(4, b"ef")]


def test_a_full_window_holds_data_and_end_back_until_acknowledged() -> None:
    stream = started_stream(window=4)
    stream.write(b"abcdef")
    stream.finish(result(6))
    assert stream.next_frames() == [chunk(0, b"abcd")]
    assert not stream.ready

    stream.acknowledge(1, final=False)

    assert stream.next_frames() == [chunk(4, b"e")]
    stream.acknowledge(5, final=False)
    assert stream.next_frames() == [chunk(5, b"f"), result(6)]


def test_the_source_pauses_at_the_window_and_goes_on_at_half_of_it() -> None:
    stream = started_stream(window=8)
    seen = []
    for byte in range(8):
        stream.write(bytes([byte]))
        seen.append(stream.full)
    stream.next_frames()
    for offset in (3, 4):
        stream.acknowledge(offset, final=False)
        seen.append(stream.has_room)

    assert seen == [False] * 7 + [True] + [False, True]


def test_only_the_first_end_counts() -> None:
    stream = started_stream()
    failed = JobError(JOB_ID, 0, "cancelled", "Cancelled.")
    stream.finish(failed)
    stream.finish(result(0))

    assert stream.next_frames() == [failed]


def test_what_comes_after_the_end_is_nothing() -> None:
    # A cancelled job's transport may still deliver its head or a last read.
    stream = SendStream(JOB_ID, 8)
    failed = JobError(JOB_ID, 0, "cancelled", "Cancelled.")
    stream.finish(failed)
    stream.start(STARTED)
    stream.write(b"late")

    assert stream.written == 0
    assert stream.next_frames() == [failed]
    assert not stream.ready


def test_a_job_may_fail_before_it_started() -> None:
    stream = SendStream(JOB_ID, 8)
    failed = JobError(JOB_ID, 0, "model_not_loaded", "No such model.")
    stream.finish(failed)

    assert stream.next_frames() == [failed]


def test_the_final_acknowledgement_ends_everything() -> None:
    stream = started_stream()
    stream.write(b"abc")
    stream.finish(result(3))
    stream.next_frames()

    stream.acknowledge(3, final=True)

    assert stream.done
    assert not stream.ready


def test_an_old_acknowledgement_says_nothing_new() -> None:
    stream = started_stream()
    stream.write(b"abcdef")
    stream.next_frames()
    stream.acknowledge(5, final=False)

    stream.acknowledge(2, final=False)

    assert stream.acked == 5


def test_bytes_never_sent_cannot_be_acknowledged() -> None:
    stream = started_stream(window=4)
    stream.write(b"abcdef")
    stream.next_frames()

    with pytest.raises(ProtocolViolation):
        stream.acknowledge(5, final=False)


@pytest.mark.parametrize("offset", [0, 2])
def test_a_final_acknowledgement_must_name_the_whole_length(offset: int) -> None:
    stream = started_stream()
    stream.write(b"abc")
    stream.finish(result(3))
    stream.next_frames()

    with pytest.raises(ProtocolViolation):
        stream.acknowledge(offset, final=True)


def test_a_final_acknowledgement_cannot_come_before_the_end() -> None:
    stream = started_stream()
    stream.write(b"abc")
    stream.next_frames()

    with pytest.raises(ProtocolViolation):
        stream.acknowledge(3, final=True)


# --- rewinding ------------------------------------------------------------------------------------


def test_rewinding_to_zero_sends_the_start_again() -> None:
    stream = started_stream()
    stream.write(b"abc")
    stream.finish(result(3))
    stream.next_frames()

    stream.rewind(0)

    assert stream.next_frames() == [STARTED, chunk(0, b"abc"), result(3)]


def test_rewinding_into_a_chunk_sends_its_rest() -> None:
    stream = started_stream()
    stream.write(b"abcdef")
    stream.next_frames()

    stream.rewind(4)

    assert stream.next_frames() == [chunk(4, b"ef")]


def test_rewinding_to_the_end_sends_the_end_again() -> None:
    stream = started_stream()
    stream.write(b"abc")
    stream.finish(result(3))
    stream.next_frames()

    stream.rewind(3)

    assert stream.next_frames() == [result(3)]


@pytest.mark.parametrize("offset", [1, 4])
def test_only_what_is_held_can_be_sent_again(offset: int) -> None:
    stream = started_stream()
    stream.write(b"abc")
    stream.next_frames()
    stream.acknowledge(2, final=False)

    with pytest.raises(ProtocolViolation):
        stream.rewind(offset)


# --- receiving ------------------------------------------------------------------------------------


def test_only_new_bytes_are_passed_on() -> None:
    stream = ReceiveStream(16)

    assert stream.receive(chunk(0, b"abc")) == b"abc"
    assert stream.receive(chunk(0, b"abc")) == b""
    assert stream.receive(chunk(1, b"bcde")) == b"de"
    assert stream.received == 5


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(chunk(4, b"x"), id="gap"),
        pytest.param(chunk(3, b""), id="no data"),
        pytest.param(chunk(3, bytes(14)), id="over the window"),
        pytest.param(chunk(2**53, b"x"), id="far gap"),
    ],
)
def test_an_impossible_chunk_is_a_violation(bad: Chunk) -> None:
    stream = ReceiveStream(16)
    stream.receive(chunk(0, b"abc"))

    with pytest.raises(ProtocolViolation):
        stream.receive(bad)


def test_a_window_exactly_full_is_allowed() -> None:
    assert len(ReceiveStream(16).receive(chunk(0, bytes(16)))) == 16


def test_a_quarter_of_the_window_is_worth_an_acknowledgement() -> None:
    stream = ReceiveStream(16)
    stream.receive(chunk(0, bytes(10)))

    assert stream.consume(3) is None
    assert stream.consume(1) == 4
    assert stream.consume(3) is None


@pytest.mark.parametrize("total", [2, 4])
def test_an_end_must_count_what_arrived(total: int) -> None:
    stream = ReceiveStream(16)
    stream.receive(chunk(0, b"abc"))

    with pytest.raises(ProtocolViolation):
        stream.check_end(result(total))


# --- both halves, any interleaving ----------------------------------------------------------------


class Transfer(RuleBasedStateMachine):
    """A response on its way through a link that keeps order and may break at any moment."""

    @initialize(window=st.integers(4, 64))
    def begin(self, window: int) -> None:
        self.window = window
        self.sender = SendStream(JOB_ID, window)
        self.receiver = ReceiveStream(window)
        self.sender.start(STARTED)
        self.source = b""
        self.sink = b""
        self.starts = self.ends = 0
        self.on_the_wire: list[AgentFrame] = []
        self.acks: list[int] = []

    @precondition(lambda self: self.sender.end is None)
    @rule(data=st.binary(max_size=80))
    def write(self, data: bytes) -> None:
        self.source += data
        self.sender.write(data)

    @precondition(lambda self: self.sender.end is None)
    @rule()
    def finish(self) -> None:
        self.sender.finish(result(len(self.source)))

    @rule(budget=st.integers(1, 40))
    def take(self, budget: int) -> None:
        ready = self.sender.ready
        frames = self.sender.next_frames(budget)
        assert bool(frames) == ready
        assert all(len(frame.data) <= budget for frame in frames if isinstance(frame, Chunk))
        self.on_the_wire += frames

    @precondition(lambda self: self.on_the_wire)
    @rule(eager=st.booleans())
    def deliver(self, eager: bool) -> None:
        match self.on_the_wire.pop(0):
            case Chunk() as frame:
                fresh = self.receiver.receive(frame)
                self.sink += fresh
                if eager:
                    self._consume(len(fresh))
            case JobResult() as end:
                self.receiver.check_end(end)
                self.ends += 1
            case JobStarted():
                assert not self.sink
                self.starts += 1

    @rule(count=st.integers(1, 80))
    def consume(self, count: int) -> None:
        self._consume(min(count, self.receiver.received - self.receiver.consumed))

    def _consume(self, count: int) -> None:
        offset = self.receiver.consume(count)
        if offset is not None:
            self.acks.append(offset)

    @precondition(lambda self: self.acks)
    @rule()
    def acknowledge(self) -> None:
        self.sender.acknowledge(self.acks.pop(0), final=False)

    @rule(data=st.data())
    def lose_the_link(self, data: st.DataObject) -> None:
        self.on_the_wire.clear()
        self.acks.clear()
        offset = data.draw(st.integers(self.receiver.consumed, self.receiver.received))
        self.sender.rewind(offset)
        self.receiver.acked = offset  # naming an offset acknowledges what is before it

    @invariant()
    def nothing_is_lost_repeated_or_reordered(self) -> None:
        assert self.source.startswith(self.sink)
        assert len(self.sink) == self.receiver.received

    @invariant()
    def offsets_are_in_order_and_within_the_window(self) -> None:
        sender = self.sender
        assert sender.acked <= sender.sent <= sender.written == len(self.source)
        assert sender.sent - sender.acked <= self.window

    def teardown(self) -> None:
        if not hasattr(self, "sender"):
            return
        if self.sender.end is None:
            self.finish()
        while self.on_the_wire or self.acks or self.sender.ready:
            self.take(40)
            while self.on_the_wire:
                self.deliver(eager=False)
            self.consume(10**6)
            while self.acks:
                self.acknowledge()
        assert self.sink == self.source
        assert self.starts >= 1
        assert self.ends >= 1
        self.sender.acknowledge(len(self.source), final=True)
        assert self.sender.done


TestTransfer = Transfer.TestCase


@given(
    st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=10),
    st.integers(1, 40),
    st.data(),
)
def test_rewinding_anywhere_replays_exactly(
    writes: list[bytes], budget: int, data: st.DataObject
) -> None:
    source = b"".join(writes)
    stream = started_stream(window=len(source))
    for piece in writes:
        stream.write(piece)
    stream.finish(result(len(source)))
    take_all(stream, budget)
    acked = data.draw(st.integers(0, len(source)))
    stream.acknowledge(acked, final=False)
    offset = data.draw(st.integers(acked, len(source)))

    stream.rewind(offset)

    replayed = take_all(stream, budget)
    chunks = [frame for frame in replayed if isinstance(frame, Chunk)]
    assert b"".join(frame.data for frame in chunks) == source[offset:]
    assert [frame.offset for frame in chunks] == [
        offset + sum(len(earlier.data) for earlier in chunks[:index])
        for index in range(len(chunks))
    ]
    assert replayed[-1] == result(len(source))
