"""One session over links that break: agent and coordinator with several jobs at once."""

from collections import OrderedDict
from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from provider_agent.protocol.agent_protocol import AgentProtocol
from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    AgentLimits,
    Cancel,
    Capabilities,
    Chunk,
    CoordinatorFrame,
    Drain,
    Draining,
    Heartbeat,
    Hello,
    JobError,
    JobHeader,
    JobResult,
    JobStarted,
    RequestChunk,
    Usage,
    Welcome,
)
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import MIN_MESSAGE_TO_COORDINATOR_BYTES, MIN_WINDOW_BYTES
from provider_agent.protocol.receive_stream import ReceiveStream
from provider_agent.protocol.request import RequestBuffer
from provider_agent.protocol.resumption import plan_resumption
from provider_agent.protocol.send_stream import SendStream
from provider_agent.protocol.state import State
from tests.fuzz.depth import STEPS_DONE, depth
from tests.fuzz.lossy_link import LossyLink
from tests.unit.protocol.protocols import AUTHORITY, KEY, PUBLIC_KEY

MAX_JOBS = 6
WINDOW = MIN_WINDOW_BYTES
PIECE_BYTES = 300
STATE_ORDER = list(State)


def new_job(job_id: bytes) -> Job:
    """A job whose request travels in several pieces."""
    return Job(job_id, "m", "openai", job_id * 50, 1000)


class SessionOverLinks(RuleBasedStateMachine):
    """An agent and a coordinator that use their protocols as the applications do.

    The agent has `channels`, `requests` and `seen_job_ids`, and `sources`, the bytes that its
    servers have written. The coordinator has `kept_streams`, which it keeps between two links,
    `cancelled`, `ended` (each job's `total_bytes`) and `sinks`, the bytes that have arrived; `ends`
    counts the ends that have arrived, and `failed` holds the jobs that could not be resumed. All
    these collections are keyed by job id. A link is cut only after it has delivered at least
    `min_delivered` frames.
    """

    def __init__(self) -> None:
        super().__init__()
        STEPS_DONE["sessions"] += 1
        self.channels: dict[bytes, SendStream] = {}
        self.seen_job_ids: set[bytes] = set()
        self.requests: dict[bytes, RequestBuffer] = {}
        self.ended: OrderedDict[bytes, int] = OrderedDict()
        self.cancelled: set[bytes] = set()
        self.sources: dict[bytes, bytes] = {}
        self.kept_streams: dict[bytes, ReceiveStream] = {}
        self.sinks: dict[bytes, bytearray] = {}
        self.ends: dict[bytes, int] = {}
        self.failed: set[bytes] = set()
        self.session_id: bytes | None = None
        self.connections = 0
        self.delivered = 0
        self.min_delivered = 4
        self.connect()

    def connect(self) -> None:
        self.connections += 1
        self.link: LossyLink[AgentFrame, CoordinatorFrame] = LossyLink()
        self.agent = AgentProtocol(
            authority=AUTHORITY,
            public_key=PUBLIC_KEY,
            sign=KEY.sign,
            agent_version="0",
            session_id=self.session_id,
            live_jobs=[
                replace(channel.live_job(), request_offset=self.requests[channel.job_id].received)
                for channel in self.channels.values()
            ],
        )
        nonce = self.connections.to_bytes(32, "big")
        self.coordinator = CoordinatorProtocol(nonce=nonce, name="c", authorities=[AUTHORITY])
        self.ranks = (0, 0)  # positions of the agent's and the coordinator's state in STATE_ORDER
        self.flush()

    def flush(self) -> None:
        self.link.up.extend(self.agent.to_send)
        self.agent.to_send.clear()
        while frames := self.coordinator.next_frames(PIECE_BYTES):
            self.link.down.extend(frames)

    @property
    def both_open(self) -> bool:
        return self.link.is_open and self.agent.state is self.coordinator.state is State.OPEN

    # --- frames in flight -------------------------------------------------------------------------

    @precondition(lambda self: self.link.up)
    @rule(count=st.integers(1, 5))
    def coordinator_reads(self, count: int) -> None:
        for _ in range(min(count, len(self.link.up))):
            STEPS_DONE["frames"] += 1
            self.delivered += 1
            frame = self.link.up.popleft()
            event = self.coordinator.receive(frame)
            if event is not None:
                self._coordinator_handles(event)
        self.flush()

    def _coordinator_handles(self, event: AgentFrame) -> None:
        match event:
            case Hello():
                plan = plan_resumption(
                    event.live_jobs,
                    self.kept_streams,
                    self.cancelled & self.kept_streams.keys(),
                    self.ended,
                )
                welcome = Welcome(
                    "p", bytes(16), 1000, 60_000, WINDOW, MIN_MESSAGE_TO_COORDINATOR_BYTES
                )
                self.failed |= self.kept_streams.keys() - plan.streams.keys()
                self.coordinator.accept(welcome, plan)
                self.coordinator.ended = self.ended
                self.kept_streams = self.coordinator.streams
                for job_id, offset in plan.request_offsets.items():
                    if job_id in plan.cancelled:
                        self.coordinator.cancel_job(job_id, "cancelled")
                    else:
                        self.coordinator.continue_request(new_job(job_id), offset)
            case Chunk():
                if event.job_id not in self.cancelled:
                    assert event.offset == len(self.sinks[event.job_id])
                    self.sinks[event.job_id] += event.data
            case JobResult() | JobError():
                self.ends[event.job_id] = self.ends.get(event.job_id, 0) + 1
                if event.job_id not in self.cancelled:
                    assert event.total_bytes == len(self.sinks[event.job_id])

    @precondition(lambda self: self.link.down)
    @rule(count=st.integers(1, 5))
    def agent_reads(self, count: int) -> None:
        for _ in range(min(count, len(self.link.down))):
            STEPS_DONE["frames"] += 1
            self.delivered += 1
            event = self.agent.receive(self.link.down.popleft())
            if event is not None:
                self._agent_handles(event)
        self.flush()

    def _agent_handles(self, event: CoordinatorFrame) -> None:
        match event:
            case Welcome():
                self.session_id = event.session_id
                resumed = {job.job_id: job for job in event.resumed}
                for job_id in list(self.channels):
                    job = resumed.get(job_id)
                    if job is None or job.ended:
                        del self.channels[job_id]
                    else:
                        self.channels[job_id].rewind(job.offset)
            case JobHeader() if event.job_id not in self.seen_job_ids:
                self.seen_job_ids.add(event.job_id)
                self.requests[event.job_id] = RequestBuffer(event.request_bytes)
                self.channels[event.job_id] = SendStream(event.job_id, WINDOW)
                self.sources[event.job_id] = b""
            case RequestChunk():
                request = self.requests[event.job_id]
                request.receive(event)
                if request.complete:
                    assert request.take() == new_job(event.job_id).request
            case Cancel() if (channel := self.channels.get(event.job_id)) and channel.end is None:
                channel.drop_unsent()
                self.sources[event.job_id] = self.sources[event.job_id][: channel.written]
                channel.finish(JobError(event.job_id, channel.written, "cancelled", ""))
            case Ack() if channel := self.channels.get(event.job_id):
                channel.acknowledge(event.offset, final=event.final)
                if channel.done:
                    del self.channels[event.job_id]

    # --- the applications -------------------------------------------------------------------------

    @precondition(lambda self: self.both_open and len(self.coordinator.streams) < MAX_JOBS)
    @rule()
    def start_job(self) -> None:
        job_id = len(self.sinks).to_bytes(16, "big")
        self.sinks[job_id] = bytearray()
        self.coordinator.start_job(new_job(job_id))
        self.flush()

    @precondition(lambda self: self.link.is_open and self.coordinator.streams)
    @rule(data=st.data())
    def consume(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.coordinator.streams)))
        stream = self.coordinator.streams[job_id]
        count = data.draw(st.integers(0, stream.received - stream.consumed))
        self.coordinator.consumed(job_id, count)
        self.flush()

    @precondition(lambda self: self.both_open and self.coordinator.streams)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.sinks)))
        self.coordinator.cancel_job(job_id, "cancelled")
        if job_id in self.coordinator.streams:
            self.cancelled.add(job_id)
        self.flush()

    @precondition(lambda self: self.channels)
    @rule(data=st.data(), pieces=st.lists(st.integers(1, WINDOW // 2), max_size=3))
    def backend_writes(self, data: st.DataObject, pieces: list[int]) -> None:
        channel = self.channels[data.draw(st.sampled_from(sorted(self.channels)))]
        if channel.end is not None or not self.requests[channel.job_id].complete:
            return
        channel.start(JobStarted(channel.job_id, 200, "text/plain", "b"))
        for size in pieces:
            if not channel.full:
                piece = bytes([size % 251]) * size
                self.sources[channel.job_id] += piece
                channel.write(piece)
        if not pieces:
            channel.finish(JobResult(channel.job_id, channel.written, Usage(None, None), "b", 1, 1))

    @precondition(lambda self: self.link.is_open and self.agent.state is State.OPEN)
    @rule(control=st.sampled_from(["data", "capabilities", "heartbeat", "draining"]))
    def agent_sends(self, control: str) -> None:
        control_frames: dict[str, Callable[[], AgentFrame]] = {
            "capabilities": lambda: Capabilities(1, [], AgentLimits(1)),
            "heartbeat": lambda: Heartbeat(0, 0, 1, None, None, None, None),
            "draining": lambda: Draining(1),
        }
        if control in control_frames:
            self.link.up.append(control_frames[control]())
        for channel in self.channels.values():
            self.link.up.extend(channel.next_frames())

    @precondition(lambda self: self.both_open)
    @rule()
    def drain(self) -> None:
        self.link.down.append(Drain("later", 1))

    @precondition(lambda self: self.delivered >= self.min_delivered)
    @rule(min_delivered=st.integers(0, 12))
    def cut_and_reconnect(self, min_delivered: int = 0) -> None:
        STEPS_DONE["cuts"] += 1
        self.link.cut()
        self.delivered, self.min_delivered = 0, min_delivered
        self.connect()

    # --- invariants -------------------------------------------------------------------------------

    @invariant()
    def the_states_never_go_back(self) -> None:
        ranks = (STATE_ORDER.index(self.agent.state), STATE_ORDER.index(self.coordinator.state))
        assert ranks[0] >= self.ranks[0]
        assert ranks[1] >= self.ranks[1]
        assert State.CLOSED not in (self.agent.state, self.coordinator.state)
        self.ranks = ranks

    @invariant()
    def each_sink_is_a_prefix_of_its_source(self) -> None:
        for job_id, sink in self.sinks.items():
            assert self.sources.get(job_id, b"").startswith(bytes(sink))
        assert all(count == 1 for count in self.ends.values())

    @invariant()
    def memory_is_bounded(self) -> None:
        assert self.agent.to_send == []
        assert self.coordinator.to_send == []
        assert len(self.coordinator.streams) <= MAX_JOBS
        assert len(self.channels) <= len(self.sinks)
        for channel in self.channels.values():
            assert channel.sent - channel.acked <= WINDOW
            assert channel.written - channel.acked < WINDOW + WINDOW // 2

    def teardown(self) -> None:
        """Check that every job that can be resumed ends over one last link."""
        self.cut_and_reconnect()
        for _ in range(10_000):
            if not self.link.up and not self.link.down and not self.channels and self.both_open:
                break
            self._exchange_frames()
        else:
            raise AssertionError("the jobs do not end")
        assert not self.coordinator.streams
        for job_id in self.ends.keys() - self.cancelled:
            assert self.sinks[job_id] == self.sources.get(job_id, b"")
        assert self.ends.keys() | self.failed == self.sinks.keys()

    def _exchange_frames(self) -> None:
        while self.link.up or self.link.down:
            if self.link.up:
                self.coordinator_reads(5)
            if self.link.down:
                self.agent_reads(5)
        for channel in self.channels.values():
            channel.start(JobStarted(channel.job_id, 200, "text/plain", "b"))
            channel.finish(JobResult(channel.job_id, channel.written, Usage(None, None), "b", 1, 1))
        for job_id, stream in self.coordinator.streams.items():
            self.coordinator.consumed(job_id, stream.received - stream.consumed)
        self.flush()
        self.agent_sends("data")


TestSession = SessionOverLinks.TestCase
TestSession.settings = depth(2)
