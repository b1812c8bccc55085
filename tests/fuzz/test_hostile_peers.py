"""Each side's state machine against a hostile peer: well-formed frames, any values, any order."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.strategies import SearchStrategy
from msgspec.structs import replace

from provider_agent.protocol.agent_protocol import AgentProtocol
from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    Challenge,
    Chunk,
    CoordinatorFrame,
    Hello,
    JobError,
    JobResult,
    JobStarted,
    LiveJob,
    Rejected,
    ResumedJob,
    Usage,
    Welcome,
)
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import MAX_INTEGER, MIN_WINDOW_BYTES
from provider_agent.protocol.receive_stream import ReceiveStream
from provider_agent.protocol.resumption import Resumption
from provider_agent.protocol.state import State
from tests.fuzz.depth import STEPS_DONE, depth
from tests.unit.protocol.frame_strategies import FROM_AGENT, FROM_COORDINATOR
from tests.unit.protocol.protocols import (
    AUTHORITY,
    KEY,
    NONCE,
    PUBLIC_KEY,
    SESSION_ID,
    STARTED,
    WELCOME,
    make_agent,
    make_hello,
)

MAX_JOBS = 4
STATE_ORDER = list(State)
JOB_IDS = st.integers(0, 6).map(lambda number: number.to_bytes(16, "big"))
OFFSETS = (
    st.integers(0, 40)
    | st.integers(MIN_WINDOW_BYTES - 2, MIN_WINDOW_BYTES + 2)
    | st.integers(0, MAX_INTEGER)
)
CHUNK_DATA = st.sampled_from([0, 1, 3, 100, 9_000]).map(bytes)

END = JobResult(bytes(16), 0, Usage(None, None), "b", 1, None)

JOB_FRAMES: SearchStrategy[AgentFrame] = st.one_of(
    st.builds(replace, st.just(STARTED), job_id=JOB_IDS),
    st.builds(Chunk, JOB_IDS, OFFSETS, CHUNK_DATA),
    st.builds(JobResult, JOB_IDS, OFFSETS, st.none(), st.none(), OFFSETS, st.none()),
    st.builds(JobError, JOB_IDS, OFFSETS, st.just("internal"), st.just("")),
)


class HostileAgent(RuleBasedStateMachine):
    """A `CoordinatorProtocol` that starts jobs and reads their responses, against a hostile agent.

    While `honest_frames` is positive, the agent sends only valid frames; each frame lowers it by
    one. `broken` is set at the first violation; the agent then sends nothing until `reconnect`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.connect(0)

    def connect(self, honest_frames: int) -> None:
        self.honest_frames = honest_frames
        self.protocol = CoordinatorProtocol(nonce=NONCE, name="c", authorities=[AUTHORITY])
        self.rank = 0
        self.received = 0
        self.sent = 1  # Challenge
        self.unconsumed: dict[bytes, int] = {}
        self.broken = False

    def _receive(self, frame: AgentFrame) -> None:
        STEPS_DONE["frames of an agent"] += 1
        self.honest_frames -= 1
        self.received += 1
        known = set(self.protocol.streams)
        try:
            event = self.protocol.receive(frame)
        except ProtocolViolation:
            self.broken = True
            return
        match event:
            case Hello():
                assert event.public_key == PUBLIC_KEY, "an unverified key was accepted"
            case Chunk():
                assert event.job_id in known
                assert event.data
                self.unconsumed[event.job_id] += len(event.data)
            case JobResult() | JobError() | JobStarted():
                assert event.job_id in known, "an event of an unknown job"

    @precondition(lambda self: self.honest_frames <= 0 and not self.broken)
    @rule(frame=FROM_AGENT)
    def any_frame(self, frame: AgentFrame) -> None:
        self._receive(frame)

    @precondition(lambda self: self.honest_frames <= 0 and not self.broken)
    @rule(frame=JOB_FRAMES)
    def job_frame(self, frame: AgentFrame) -> None:
        self._receive(frame)

    @precondition(lambda self: self.protocol.state is State.AWAITING_HELLO and not self.broken)
    @rule()
    def valid_hello(self) -> None:
        self._receive(make_hello(make_agent()))

    @precondition(lambda self: self.honest_frames <= 0 and not self.broken)
    @rule()
    def hello_for_another_host(self) -> None:
        self._receive(make_hello(make_agent(authority="elsewhere:443")))

    @precondition(lambda self: self.protocol.streams and not self.broken)
    @rule(data=st.data())
    def valid_next_frame(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.protocol.streams)))
        stream = self.protocol.streams[job_id]
        if not stream.started:
            self._receive(replace(STARTED, job_id=job_id))
            return
        free = MIN_WINDOW_BYTES - (stream.received - stream.acked)
        back = data.draw(st.integers(0, min(stream.received - stream.acked, 9)))
        size = data.draw(st.sampled_from([0, min(1, free), free]))
        if back + size:
            self._receive(Chunk(job_id, stream.received - back, bytes(back + size)))
        else:
            self._receive(JobResult(job_id, stream.received, Usage(None, None), "b", 1, None))
        assert not self.broken, "a valid frame was refused"

    @precondition(lambda self: self.protocol.streams and self.honest_frames <= 0)
    @rule(data=st.data(), how=st.sampled_from(["gap", "empty", "over the window", "wrong total"]))
    def invalid_frame(self, data: st.DataObject, how: str) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.protocol.streams)))
        stream = self.protocol.streams[job_id]
        free = MIN_WINDOW_BYTES - (stream.received - stream.acked)
        invalid_frames: dict[str, AgentFrame] = {
            "gap": Chunk(job_id, stream.received + 1, b"x"),
            "empty": Chunk(job_id, stream.received, b""),
            "over the window": Chunk(job_id, stream.received, bytes(free + 1)),
            "wrong total": replace(END, job_id=job_id, total_bytes=stream.received + 1),
        }
        if not self.broken:
            self._receive(invalid_frames[how])
            assert self.broken, how

    @precondition(lambda self: self.protocol.state is State.AUTHENTICATED)
    @rule(job_ids=st.sets(JOB_IDS, max_size=MAX_JOBS))
    def accept(self, job_ids: set[bytes]) -> None:
        streams = {job_id: ReceiveStream(MIN_WINDOW_BYTES) for job_id in job_ids}
        self.protocol.accept(WELCOME, Resumption(streams, {}, set(), {}))
        self.unconsumed = dict.fromkeys(job_ids, 0)
        self.sent += len(job_ids)

    @precondition(lambda self: self.protocol.state is State.OPEN)
    @rule(job_id=JOB_IDS)
    def start_job(self, job_id: bytes) -> None:
        if job_id not in self.protocol.streams and len(self.protocol.streams) < MAX_JOBS:
            self.protocol.start_job(Job(job_id, "m", "openai", b"{}", 1000))
            self.unconsumed[job_id] = 0
            self.sent += 1

    @rule(job_id=JOB_IDS)
    def consume(self, job_id: bytes) -> None:
        count = self.unconsumed.get(job_id, 0)
        self.unconsumed[job_id] = 0
        self.protocol.consumed(job_id, count)
        self.sent += 1

    @precondition(lambda self: self.broken or self.protocol.state is State.CLOSED)
    @rule(honest_frames=st.integers(0, 12))
    def reconnect(self, honest_frames: int) -> None:
        STEPS_DONE["connections of an agent"] += 1
        self.connect(honest_frames)

    @invariant()
    def the_state_never_goes_back(self) -> None:
        rank = STATE_ORDER.index(self.protocol.state)
        assert rank >= self.rank
        self.rank = rank

    @invariant()
    def memory_is_bounded(self) -> None:
        protocol = self.protocol
        assert len(protocol.streams) <= MAX_JOBS
        assert len(protocol.to_send) <= self.received + self.sent
        for job_id, stream in protocol.streams.items():
            assert self.unconsumed[job_id] <= MIN_WINDOW_BYTES
            assert stream.acked <= stream.consumed <= stream.received


class HostileCoordinator(RuleBasedStateMachine):
    """An `AgentProtocol` with two live jobs to resume, against a hostile coordinator.

    `honest_frames` and `broken` have the same meaning as in `HostileAgent`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live_jobs = {LiveJob(bytes(16), 3, 9), LiveJob(b"\x01" * 16, 0, 0)}
        self.connect(0)

    def connect(self, honest_frames: int) -> None:
        self.honest_frames = honest_frames
        self.protocol = AgentProtocol(
            authority=AUTHORITY,
            public_key=PUBLIC_KEY,
            sign=KEY.sign,
            agent_version="0",
            session_id=SESSION_ID,
            live_jobs=self.live_jobs,
        )
        self.rank = 0
        self.broken = False
        self.welcomes = 0

    def _receive(self, frame: CoordinatorFrame) -> None:
        STEPS_DONE["frames of a coordinator"] += 1
        self.honest_frames -= 1
        before = self.protocol.state
        try:
            event = self.protocol.receive(frame)
        except ProtocolViolation:
            self.broken = True
            assert self.protocol.state is before
            return
        match event:
            case Welcome():
                self.welcomes += 1
                limits = {job.job_id: (job.first_offset, job.next_offset) for job in self.live_jobs}
                for job in event.resumed:
                    first, last = limits[job.job_id]
                    assert first <= job.offset <= last
                    assert not job.ended
                assert event.window_bytes >= MIN_WINDOW_BYTES
            case Rejected():
                assert self.protocol.state is State.CLOSED
            case None:
                assert isinstance(frame, Challenge)
            case _:
                assert before is State.OPEN

    @precondition(lambda self: self.honest_frames <= 0 and not self.broken)
    @rule(frame=FROM_COORDINATOR)
    def any_frame(self, frame: CoordinatorFrame) -> None:
        self._receive(frame)

    @precondition(lambda self: self.honest_frames <= 0 and not self.broken)
    @rule()
    def challenge(self) -> None:
        self._receive(Challenge(NONCE, "c"))

    @precondition(lambda self: self.honest_frames <= 0 and not self.broken)
    @rule(
        window=OFFSETS,
        limit=st.sampled_from([0, 2**20 - 1, 2**20, 2**53 - 1]),
        resumed=st.lists(
            st.builds(
                ResumedJob,
                st.sampled_from([bytes(16), b"\x01" * 16, b"?" * 16]),
                OFFSETS,
                st.booleans(),
            )
        ),
    )
    def welcome(self, window: int, limit: int, resumed: list[ResumedJob]) -> None:
        changed = replace(WELCOME, window_bytes=window, max_message_bytes=limit, resumed=resumed)
        self._receive(changed)

    @precondition(
        lambda self: self.protocol.state in (State.AWAITING_CHALLENGE, State.AWAITING_WELCOME)
    )
    @rule()
    def valid_next_frame(self) -> None:
        if not self.broken:
            waits_for_welcome = self.protocol.state is State.AWAITING_WELCOME
            self._receive(WELCOME if waits_for_welcome else Challenge(NONCE, "c"))

    @precondition(lambda self: self.protocol.state is State.OPEN and not self.broken)
    @rule(job_id=JOB_IDS, offset=OFFSETS, final=st.booleans())
    def acknowledge(self, job_id: bytes, offset: int, final: bool) -> None:
        self._receive(Ack(job_id, offset, final=final))

    @precondition(lambda self: self.broken or self.protocol.state is State.CLOSED)
    @rule(honest_frames=st.integers(0, 12))
    def reconnect(self, honest_frames: int) -> None:
        STEPS_DONE["connections to a coordinator"] += 1
        self.connect(honest_frames)

    @invariant()
    def the_state_never_goes_back(self) -> None:
        rank = STATE_ORDER.index(self.protocol.state)
        assert rank >= self.rank
        self.rank = rank

    @invariant()
    def at_most_one_hello_is_sent_and_one_welcome_accepted(self) -> None:
        assert len(self.protocol.to_send) <= 1
        assert self.welcomes <= 1
        assert all(isinstance(frame, Hello) for frame in self.protocol.to_send)


TestHostileAgent = HostileAgent.TestCase
TestHostileAgent.settings = depth()
TestHostileCoordinator = HostileCoordinator.TestCase
TestHostileCoordinator.settings = depth()
