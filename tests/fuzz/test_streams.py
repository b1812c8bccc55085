"""One response over several links, each cut at any point: every byte arrives exactly once."""

import hashlib

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    Chunk,
    JobEnd,
    JobError,
    JobResult,
    JobStarted,
    Usage,
)
from provider_agent.protocol.receive_stream import ReceiveStream
from provider_agent.protocol.resumption import plan_resumption
from provider_agent.protocol.send_stream import SendStream
from tests.fuzz.depth import STEPS_DONE, depth
from tests.fuzz.lossy_link import LossyLink

JOB_ID = b"\x0b" * 16
STARTED = JobStarted(JOB_ID, 200, "text/event-stream", "echo")
WINDOWS = st.integers(4, 64)
MAX_WRITE_BYTES = 80


class BrokenLinks(RuleBasedStateMachine):
    """Both halves of a stream, with a source that pauses while the window is full.

    `source` holds the bytes that the server has sent; `sink` and `end` are what the coordinator
    received, and `passed_on` counts the bytes that its client has read. `widest` is the largest
    window so far. `forgotten` is set when a resumption does not continue the job.
    """

    @initialize(window=WINDOWS, length=st.integers(0, 200))
    def create(self, window: int, length: int) -> None:
        STEPS_DONE["streams"] += 1
        self.window = self.widest = window
        self.sender = SendStream(JOB_ID, window, hashed=True)
        self.receiver = ReceiveStream(window)
        self.streams: dict[bytes, ReceiveStream] = {JOB_ID: self.receiver}
        self.source = b""
        self.length = length
        self.sink = b""
        self.passed_on = 0
        self.end: JobEnd | None = None
        self.paused = self.forgotten = False
        self.link: LossyLink[AgentFrame, Ack] = LossyLink()
        self.has_delivered = False

    @property
    def is_complete(self) -> bool:
        return len(self.source) >= self.length

    # --- the agent's side -------------------------------------------------------------------------

    @precondition(lambda self: self.sender.started is None)
    @rule()
    def start(self) -> None:
        self.sender.start(STARTED)

    @precondition(lambda self: self.sender.started and not self.sender.end and not self.paused)
    @rule(data=st.binary(max_size=MAX_WRITE_BYTES))
    def write(self, data: bytes) -> None:
        self.source += data
        self.sender.write(data)
        self.paused = self.sender.full

    @precondition(lambda self: self.sender.started and not self.sender.end and self.is_complete)
    @rule()
    def finish(self) -> None:
        self.sender.finish(JobResult(JOB_ID, self.sender.written, Usage(1, 1), "b", 10, 5))

    @precondition(lambda self: not self.sender.done and self.is_complete)
    @rule()
    def abandon(self) -> None:
        """Drop unsent bytes and end the job, as after a cancel or for a slow consumer."""
        sent, end_sent = self.sender.sent, self.sender.end_sent
        self.sender.drop_unsent()
        assert end_sent or self.sender.written == sent
        if self.sender.end is None:
            self.source = self.source[: self.sender.written]
            self.sender.finish(JobError(JOB_ID, self.sender.written, "slow_consumer", ""))

    @precondition(lambda self: self.link.is_open)
    @rule(budget=st.integers(1, 100))
    def send(self, budget: int) -> None:
        ready = self.sender.ready
        frames = self.sender.next_frames(budget)
        assert bool(frames) == ready
        assert all(len(frame.data) <= budget for frame in frames if isinstance(frame, Chunk))
        self.link.up.extend(frames)

    @precondition(lambda self: self.link.down)
    @rule()
    def receive_ack(self) -> None:
        ack = self.link.down.popleft()
        self.sender.acknowledge(ack.offset, final=ack.final)
        if self.sender.below_low_water:
            self.paused = False

    # --- the coordinator's side -------------------------------------------------------------------

    @precondition(lambda self: self.link.up)
    @rule(count=st.integers(1, 4))
    def deliver_some(self, count: int) -> None:
        for _ in range(min(count, len(self.link.up))):
            self.deliver()

    def deliver(self) -> None:
        STEPS_DONE["frames"] += 1
        self.has_delivered = True
        match self.link.up.popleft():
            case JobStarted():
                assert not self.receiver.started, "started twice on one link"
                self.receiver.started = True
            case Chunk() as chunk:
                assert self.receiver.started
                fresh = self.receiver.receive(chunk)
                assert fresh == chunk.data, "a byte that had arrived was sent again"
                self.sink += fresh
            case JobResult() | JobError() as end:
                assert self.end is None, "a second end"
                self.receiver.check_end(end)
                self.end = end
                del self.streams[JOB_ID]
                self.link.down.append(Ack(JOB_ID, end.total_bytes, final=True))

    @precondition(lambda self: self.streams and self.passed_on < self.receiver.received)
    @rule(count=st.integers(1, 100))
    def consume(self, count: int) -> None:
        """The client reads, with or without a link."""
        count = min(count, self.receiver.received - self.passed_on)
        self.passed_on += count
        offset = self.receiver.consume(count)
        if offset is not None and self.link.is_open:
            self.link.down.append(Ack(JOB_ID, offset))

    # --- the link ---------------------------------------------------------------------------------

    # Only a link that delivered a frame is cut; otherwise most links would carry nothing.
    @precondition(lambda self: self.link.is_open and self.has_delivered)
    @rule()
    def cut(self) -> None:
        STEPS_DONE["cuts"] += 1
        self.has_delivered = False
        self.link.cut()

    @precondition(lambda self: not self.link.is_open)
    @rule(window=st.none() | WINDOWS)
    def resume(self, window: int | None) -> None:
        """Exchange `Hello` and `Welcome` on a new link, for which the window may change."""
        self.link = LossyLink()
        self.window = window or self.window
        self.widest = max(self.widest, self.window)
        offered = [] if self.sender.done or self.forgotten else [self.sender.live_job()]
        ended = {} if self.end is None else {JOB_ID: self.end.total_bytes}
        plan = plan_resumption(offered, self.streams, (), ended)
        if not plan.streams:
            assert not self.streams, "the agent must hold every job that has not ended"
            assert plan.delivered == (ended if offered else {})
            self.forgotten = True
            return
        assert plan.streams == {JOB_ID: self.receiver}, "a job that both sides hold must continue"
        acked = self.receiver.resume(self.window)
        self.sender.window = self.window
        self.sender.rewind(self.receiver.received)
        if acked:
            self.link.down.append(Ack(JOB_ID, acked))
        if self.sender.below_low_water:
            self.paused = False

    # --- invariants -------------------------------------------------------------------------------

    @invariant()
    def the_sink_is_a_prefix_of_the_source(self) -> None:
        assert self.source.startswith(self.sink)
        assert len(self.sink) == self.receiver.received

    @invariant()
    def offsets_are_in_order_and_within_the_window(self) -> None:
        sender = self.sender
        assert sender.acked <= sender.sent <= sender.written == len(self.source)
        assert sender.sent - sender.acked <= self.widest
        assert sender.acked <= self.passed_on or self.end

    @invariant()
    def the_sender_holds_at_most_a_window_and_one_write(self) -> None:
        sender = self.sender
        held = sum(map(len, sender._unsent)) + sum(map(len, sender._unacked))
        assert held == sender.written - sender.acked
        assert held < self.widest + MAX_WRITE_BYTES

    @invariant()
    def the_hash_is_that_of_the_source(self) -> None:
        assert self.sender.sha256() == hashlib.sha256(self.source).digest()

    @invariant()
    def the_receiver_holds_at_most_a_window(self) -> None:
        assert len(self.sink) - self.passed_on <= self.widest

    def teardown(self) -> None:
        if hasattr(self, "sender"):
            self._finish_transfer()
            assert self.sink == self.source
            assert self.end is not None
            assert self.end.total_bytes == len(self.source)
            assert self.sender.done or self.forgotten

    def _finish_transfer(self) -> None:
        if self.sender.started is None:
            self.start()
        if self.sender.end is None:
            self.finish()
        for _ in range(100_000):
            if self.sender.done or self.forgotten:
                return
            if not self.link.is_open:
                self.resume(None)
            self.send(100)
            while self.link.up:
                self.deliver()
            if self.streams and self.passed_on < self.receiver.received:
                self.consume(100)
            while self.link.down:
                self.receive_ack()
        raise AssertionError("the transfer does not end")


TestBrokenLinks = BrokenLinks.TestCase
TestBrokenLinks.settings = depth(2)
