"""Both halves of a stream together: any interleaving of their steps, over a link that may break."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocol.frames import AgentFrame, Chunk, JobResult, JobStarted
from protocol.stream import ReceiveStream, SendStream

JOB_ID = b"\x0b" * 16
STARTED = JobStarted(JOB_ID, 200, "text/event-stream", "echo")


def result(total_bytes: int) -> JobResult:
    return JobResult(JOB_ID, total_bytes, 1, 1, 10, 5)


def take_all(stream: SendStream, budget: int) -> list[AgentFrame]:
    frames: list[AgentFrame] = []
    while stream.ready:
        frames += stream.next_frames(budget)
    return frames


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
        self.starts = self.ends = self.rewinds_to_zero = 0
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
                self.starts += 1
                assert self.starts <= 1 + self.rewinds_to_zero

    @rule(count=st.integers(1, 80))
    def consume(self, count: int) -> None:
        self._consume(min(count, self.unconsumed))

    @property
    def unconsumed(self) -> int:
        return self.receiver.received - self.receiver.consumed

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
        safe = max(self.receiver.consumed, self.receiver.acked)
        offset = data.draw(st.integers(safe, self.receiver.received))
        self.rewinds_to_zero += offset == 0
        self.sender.rewind(offset)
        # Naming an offset acknowledges what is before it and forgets what is behind it.
        self.receiver.acked = self.receiver.received = offset
        self.sink = self.sink[:offset]

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
        while self.on_the_wire or self.acks or self.sender.ready or self.unconsumed:
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
    stream = SendStream(JOB_ID, len(source))
    stream.start(STARTED)
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
