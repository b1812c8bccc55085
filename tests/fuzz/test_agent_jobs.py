"""An agent's jobs and outbox under a coordinator that says anything about any job."""

import asyncio
from collections import Counter
from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from provider_agent.adapters.base import Backend, BackendError, Unreachable
from provider_agent.agent.backends.routing import Route
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.jobs.running import Jobs
from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    Chunk,
    Job,
    JobError,
    JobResult,
    JobStarted,
)
from provider_agent.protocol.limits import MIN_WINDOW_BYTES
from tests.fuzz.depth import STEPS_DONE, depth
from tests.kit.scripted_backend import CHAT_AND_MESSAGES, ScriptedBackend, ScriptedRun

WINDOW = MIN_WINDOW_BYTES
MAX_WRITE = WINDOW // 2
CAPACITY = 2
MAX_CONCURRENT = 2
JOB_IDS = st.integers(0, 11).map(lambda number: number.to_bytes(16, "big"))
NEAR = st.integers(-2, 2)


class TwoBackends:
    """What discovery would know: two healthy backends of one model."""

    def __init__(self) -> None:
        self.backends = {"a": ScriptedBackend("a"), "b": ScriptedBackend("b")}
        self.running: Counter[str] = Counter()

    def routes(self, model_id: str) -> list[Route]:
        if model_id != "m":
            return []
        operations = frozenset(operation.value for operation in CHAT_AND_MESSAGES)
        return [
            Route(name, order, True, operations, self.running[name], CAPACITY)
            for order, name in enumerate(self.backends)
        ]

    def backend(self, backend_id: str) -> Backend:
        return self.backends[backend_id]

    def job_started(self, backend_id: str) -> int:
        self.running[backend_id] += 1
        return 0

    def job_ended(
        self, backend_id: str, number: int, error: BackendError | None, tokens: int
    ) -> None:
        self.running[backend_id] -= 1

    def job_stopped(self, backend_id: str, number: int) -> None:
        self.running[backend_id] -= 1


class OneJob:
    """What its coordinator has on the present link."""

    def __init__(self) -> None:
        self.received = 0
        self.is_started = False
        self.end: JobResult | JobError | None = None


class HostileJobs(RuleBasedStateMachine):
    """Each step is followed by a turn of the loop in which everybody does what there is to do."""

    def __init__(self) -> None:
        super().__init__()
        STEPS_DONE["agents"] += 1
        self.runner = asyncio.Runner()
        self.loop = self.runner.get_loop()
        self.runner.run(self._begin())

    async def _begin(self) -> None:
        self.outbox = Outbox(WINDOW)
        self.served = TwoBackends()
        self.records = 0
        self.jobs = Jobs(
            self.served, self.outbox, MAX_CONCURRENT, self._count, clock=self.loop.time
        )
        self.offered: set[bytes] = set()
        self.at_coordinator: dict[bytes, OneJob] = {}
        self.sources: dict[bytes, bytearray] = {}

    def _count(self, record: object) -> None:
        self.records += 1

    def _turn(self, act: Callable[[], object]) -> bool:
        """Whether the coordinator may do this; if not, its link ends."""
        STEPS_DONE["steps"] += 1

        async def turn() -> None:
            act()
            for _ in range(4):
                await asyncio.sleep(0)

        try:
            self.runner.run(turn())
        except ProtocolViolation:
            STEPS_DONE["violations"] += 1
            self.link_is_lost()
            return False
        return True

    # --- the coordinator --------------------------------------------------------------------------

    @rule(job_id=JOB_IDS, model=st.sampled_from("mmmx"), deadline_ms=st.sampled_from([0, 10**7]))
    def offer(self, job_id: bytes, model: str, deadline_ms: int) -> None:
        if job_id not in self.offered:
            self.at_coordinator[job_id] = OneJob()
            self.sources[job_id] = bytearray()
        self.offered.add(job_id)
        assert self._turn(
            lambda: self.jobs.offer(Job(job_id, model, "openai", b"{}", deadline_ms))
        ), "never with so few jobs"

    @rule(job_ids=st.lists(JOB_IDS, max_size=5))
    def cancel(self, job_ids: list[bytes]) -> None:
        assert self._turn(lambda: self._cancel(job_ids))

    def _cancel(self, job_ids: list[bytes]) -> None:
        for job_id in job_ids:
            self.jobs.cancel(job_id, "stop")

    @rule(job_id=JOB_IDS, offset=st.integers(0, 2**53), final=st.booleans())
    def acknowledge_anything(self, job_id: bytes, offset: int, final: bool) -> None:
        self._turn(lambda: self.outbox.acknowledge(Ack(job_id, offset, final=final)))

    @precondition(lambda self: self.at_coordinator)
    @rule(data=st.data(), near=NEAR, final=st.booleans())
    def acknowledge_nearly(self, data: st.DataObject, near: int, final: bool) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.at_coordinator)))
        offset = max(0, self.at_coordinator[job_id].received + near)
        self._turn(lambda: self.outbox.acknowledge(Ack(job_id, offset, final=final)))

    @rule()
    def acknowledge_as_one_should(self) -> None:
        for job_id, one in self.at_coordinator.items():
            ack = Ack(job_id, one.received, final=one.end is not None)
            assert self._turn(lambda ack=ack: self.outbox.acknowledge(ack))  # type: ignore[misc]

    @rule()
    def read(self) -> None:
        frames: list[AgentFrame] = []
        self._turn(lambda: frames.extend(self.outbox.next_batch()))
        for frame in frames:
            self._take(frame)

    def _take(self, frame: AgentFrame) -> None:
        match frame:
            case JobStarted():
                one = self.at_coordinator[frame.job_id]
                assert not one.is_started
                assert one.end is None
                one.is_started = True
            case Chunk():
                one = self.at_coordinator[frame.job_id]
                assert one.is_started
                assert one.end is None
                assert frame.offset == one.received
                one.received += len(frame.data)
                source = self.sources[frame.job_id]
                assert source[frame.offset : one.received] == frame.data
            case JobResult() | JobError():
                one = self.at_coordinator[frame.job_id]
                assert one.end is None, "one end"
                assert frame.total_bytes == one.received
                one.end = frame
            case _:
                raise AssertionError(f"nobody put a {type(frame).__name__}")

    @rule(data=st.data())
    def break_the_link(self, data: st.DataObject) -> None:
        """Resume some jobs somewhere within what was offered, or where nothing was."""
        self.link_is_lost()
        offsets = {}
        for live in self.outbox.live_jobs():
            if data.draw(st.booleans()):
                last = live.next_offset + data.draw(st.sampled_from([0, 0, 0, 1]))
                offsets[live.job_id] = data.draw(st.integers(live.first_offset, last))
        self.resume(offsets)

    def resume(self, offsets: dict[bytes, int]) -> None:
        orphans: list[bytes] = []
        if not self._turn(lambda: orphans.extend(self.outbox.resume(offsets))):
            self._turn(lambda: orphans.extend(self.outbox.resume({})))
        self._turn(lambda: self._cancel(orphans))
        for job_id in orphans:
            self.at_coordinator.pop(job_id, None)
        for job_id, one in self.at_coordinator.items():
            one.received = offsets.get(job_id, one.received)
            one.is_started = one.received > 0
            one.end = None

    def link_is_lost(self) -> None:
        STEPS_DONE["links lost"] += 1
        live = {job.job_id: job.next_offset for job in self.outbox.live_jobs()}
        self.at_coordinator = {
            job_id: one for job_id, one in self.at_coordinator.items() if job_id in live
        }
        for stream in self.outbox.streams:
            stream.rewind(stream.sent)
        for job_id, one in self.at_coordinator.items():
            one.received = live[job_id]
            one.is_started = one.received > 0
            one.end = None

    # --- the backends -----------------------------------------------------------------------------

    def _runs(self) -> list[ScriptedRun]:
        everybody = [run for backend in self.served.backends.values() for run in backend.runs]
        return [run for run in everybody if not run.outcome.done() and not run.cancelled.is_set()]

    @precondition(lambda self: self._runs())
    @rule(data=st.data(), size=st.integers(0, MAX_WRITE))
    def a_backend_writes(self, data: st.DataObject, size: int) -> None:
        run = data.draw(st.sampled_from(self._runs()))
        if run.paused:
            return
        if not getattr(run, "began", False):
            run.began = True  # type: ignore[attr-defined]
            self._turn(run.start)
            return
        piece = bytes([size % 251]) * size
        self.sources[run.job.job_id] += piece
        self._turn(lambda: run.send(piece))

    @precondition(lambda self: self._runs())
    @rule(data=st.data(), how=st.sampled_from(["finish", "unreachable", "defect"]))
    def a_backend_ends(self, data: st.DataObject, how: str) -> None:
        run = data.draw(st.sampled_from(self._runs()))
        if how == "finish" and not getattr(run, "began", False):
            self._turn(run.start)
        ways: dict[str, Callable[[], None]] = {
            "finish": run.finish,
            "unreachable": lambda: run.fail(Unreachable("gone")),
            "defect": lambda: run.fail(RuntimeError("a defect")),
        }
        self._turn(ways[how])

    # --- what always holds ------------------------------------------------------------------------

    @invariant()
    def jobs_are_counted_where_they_are(self) -> None:
        running = self.jobs.in_flight
        assert running <= MAX_CONCURRENT
        places = [self.served.running[name] for name in self.served.backends]
        assert sum(places) == running
        assert all(0 <= place <= CAPACITY for place in places)
        assert self.records + running == len(self.offered), "one end each, never two"

    @invariant()
    def what_is_held_is_bounded(self) -> None:
        streams = self.outbox.streams
        assert len(streams) <= len(self.offered)
        assert len(self.outbox._ready) <= len(streams)
        for stream in streams:
            assert stream.sent - stream.acked <= WINDOW
            assert stream.written - stream.acked < WINDOW + MAX_WRITE
        assert len(asyncio.all_tasks(self.loop)) == self.jobs.in_flight

    def teardown(self) -> None:
        """Whatever was done to it, every job ends, and nothing is left."""
        for run in self._runs():
            self._turn(lambda run=run: run.fail(Unreachable("gone")))  # type: ignore[misc]
        for _ in range(4):  # as often as a job may go on elsewhere
            for run in self._runs():
                self._turn(lambda run=run: run.fail(Unreachable("gone")))  # type: ignore[misc]
        for _ in range(1000):
            if not self.outbox.streams:
                break
            self.read()
            self.acknowledge_as_one_should()
        assert not self.outbox.streams
        assert self.jobs.in_flight == 0
        assert self.records == len(self.offered)
        self.runner.close()


TestHostileJobs = HostileJobs.TestCase
TestHostileJobs.settings = depth()
