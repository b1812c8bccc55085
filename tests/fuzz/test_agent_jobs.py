"""An agent's jobs and outbox against a coordinator that sends any frame about any job."""

import asyncio
from collections.abc import Callable

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from provider_agent.adapters.base import Unreachable
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.jobs.running import Jobs
from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import Ack, AgentFrame, Chunk, JobError, JobResult, JobStarted
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import MIN_WINDOW_BYTES
from tests.fuzz.depth import STEPS_DONE, depth
from tests.kit.jobs import submit_job
from tests.kit.jobs_harness import FakeBackendPool
from tests.kit.scripted_backend import ScriptedBackend, ScriptedRun

WINDOW = MIN_WINDOW_BYTES
MAX_WRITE = WINDOW // 2
CAPACITY = 2
MAX_CONCURRENT = 2
JOB_IDS = st.integers(0, 11).map(lambda number: number.to_bytes(16, "big"))
MODELS = st.sampled_from(["m", "m", "m", "unknown"])
NEAR = st.integers(-2, 2)


class ReceivedJob:
    """What the coordinator has received of a job. The next frames must continue exactly there."""

    def __init__(self) -> None:
        self.received = 0
        self.is_started = False
        self.end: JobResult | JobError | None = None


class HostileJobs(RuleBasedStateMachine):
    """An agent's jobs and outbox. After each step the event loop runs until every task has reacted.

    `offered` holds the ids of all jobs that the coordinator has sent, `sources` the bytes that the
    backends have written for each job, and `ended_jobs` counts the jobs that have ended.
    """

    def __init__(self) -> None:
        super().__init__()
        STEPS_DONE["agents"] += 1
        self.runner = asyncio.Runner()
        self.loop = self.runner.get_loop()
        self.runner.run(self._begin())

    async def _begin(self) -> None:
        self.outbox = Outbox(WINDOW)
        self.backends = [ScriptedBackend(name, max_concurrent=CAPACITY) for name in ("a", "b")]
        self.pool = FakeBackendPool(*self.backends)
        self.ended_jobs = 0
        self.jobs = Jobs(
            self.pool, self.outbox, MAX_CONCURRENT, self._count_end, clock=self.loop.time
        )
        self.offered: set[bytes] = set()
        self.received_jobs: dict[bytes, ReceivedJob] = {}
        self.sources: dict[bytes, bytearray] = {}

    def _count_end(self, record: object) -> None:
        self.ended_jobs += 1

    def _step(self, act: Callable[[], object]) -> bool:
        """Run `act` and let all tasks react; False after a violation, which ends the link."""
        STEPS_DONE["steps"] += 1

        async def run() -> None:
            act()
            for _ in range(4):
                await asyncio.sleep(0)

        try:
            self.runner.run(run())
        except ProtocolViolation:
            STEPS_DONE["violations"] += 1
            self.lose_link()
            return False
        return True

    # --- the coordinator --------------------------------------------------------------------------

    @rule(job_id=JOB_IDS, model=MODELS, deadline_ms=st.sampled_from([0, 10**7]))
    def send_job(self, job_id: bytes, model: str, deadline_ms: int) -> None:
        if job_id not in self.offered:
            self.received_jobs[job_id] = ReceivedJob()
            self.sources[job_id] = bytearray()
        self.offered.add(job_id)
        assert self._step(
            lambda: submit_job(self.jobs, Job(job_id, model, "openai", b"{}", deadline_ms))
        ), "a job caused a violation"

    @rule(job_ids=st.lists(JOB_IDS, max_size=5))
    def cancel(self, job_ids: list[bytes]) -> None:
        assert self._step(lambda: self._cancel(job_ids))

    def _cancel(self, job_ids: list[bytes]) -> None:
        for job_id in job_ids:
            self.jobs.cancel(job_id, "stop")

    @rule(job_id=JOB_IDS, offset=st.integers(0, 2**53 - 1), final=st.booleans())
    def acknowledge_any_offset(self, job_id: bytes, offset: int, final: bool) -> None:
        self._step(lambda: self.outbox.acknowledge(Ack(job_id, offset, final=final)))

    @precondition(lambda self: self.received_jobs)
    @rule(data=st.data(), near=NEAR, final=st.booleans())
    def acknowledge_near_the_last_received_byte(
        self, data: st.DataObject, near: int, final: bool
    ) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.received_jobs)))
        offset = max(0, self.received_jobs[job_id].received + near)
        self._step(lambda: self.outbox.acknowledge(Ack(job_id, offset, final=final)))

    @rule()
    def acknowledge_received_bytes(self) -> None:
        for job_id, job in self.received_jobs.items():
            ack = Ack(job_id, job.received, final=job.end is not None)
            assert self._step(lambda ack=ack: self.outbox.acknowledge(ack))  # type: ignore[misc]

    @rule()
    def read_batch(self) -> None:
        frames: list[AgentFrame] = []
        self._step(lambda: frames.extend(self.outbox.next_batch()))
        for frame in frames:
            self._receive(frame)

    def _receive(self, frame: AgentFrame) -> None:
        match frame:
            case JobStarted():
                job = self.received_jobs[frame.job_id]
                assert not job.is_started
                assert job.end is None
                job.is_started = True
            case Chunk():
                job = self.received_jobs[frame.job_id]
                assert job.is_started
                assert job.end is None
                assert frame.offset == job.received
                job.received += len(frame.data)
                source = self.sources[frame.job_id]
                assert source[frame.offset : job.received] == frame.data
            case JobResult() | JobError():
                job = self.received_jobs[frame.job_id]
                assert job.end is None, "a second end"
                assert frame.total_bytes == job.received
                job.end = frame
            case _:
                raise AssertionError(f"unexpected {type(frame).__name__}")

    @rule(data=st.data())
    def reconnect(self, data: st.DataObject) -> None:
        """Resume some jobs, each at an offset that the agent offers, or one byte too far."""
        self.lose_link()
        offsets = {}
        for live in self.outbox.live_jobs():
            if data.draw(st.booleans()):
                last = live.next_offset + data.draw(st.sampled_from([0, 0, 0, 1]))
                offsets[live.job_id] = data.draw(st.integers(live.first_offset, last))
        self.resume(offsets)

    def resume(self, offsets: dict[bytes, int]) -> None:
        orphans: list[bytes] = []
        if not self._step(lambda: orphans.extend(self.outbox.resume(offsets))):
            self._step(lambda: orphans.extend(self.outbox.resume({})))
        self._step(lambda: self._cancel(orphans))
        for job_id in orphans:
            self.received_jobs.pop(job_id, None)
        for job_id, job in self.received_jobs.items():
            job.received = offsets.get(job_id, job.received)
            job.is_started = job.received > 0
            job.end = None

    def lose_link(self) -> None:
        STEPS_DONE["links lost"] += 1
        live = {job.job_id: job.next_offset for job in self.outbox.live_jobs()}
        self.received_jobs = {
            job_id: job for job_id, job in self.received_jobs.items() if job_id in live
        }
        for stream in self.outbox.streams:  # as if everything sent had arrived
            stream.rewind(stream.sent)
        for job_id, job in self.received_jobs.items():
            job.received = live[job_id]
            job.is_started = job.received > 0
            job.end = None

    # --- the backends -----------------------------------------------------------------------------

    def _active_runs(self) -> list[ScriptedRun]:
        all_runs = [run for backend in self.backends for run in backend.runs]
        return [run for run in all_runs if not run.outcome.done() and not run.cancelled.is_set()]

    @precondition(lambda self: self._active_runs())
    @rule(data=st.data(), size=st.integers(0, MAX_WRITE))
    def backend_writes(self, data: st.DataObject, size: int) -> None:
        run = data.draw(st.sampled_from(self._active_runs()))
        if run.paused:
            return
        if not getattr(run, "began", False):
            run.began = True  # type: ignore[attr-defined]
            self._step(run.start)
            return
        piece = bytes([size % 251]) * size
        self.sources[run.job.job_id] += piece
        self._step(lambda: run.send(piece))

    @precondition(lambda self: self._active_runs())
    @rule(data=st.data(), how=st.sampled_from(["finish", "unreachable", "defect"]))
    def backend_ends(self, data: st.DataObject, how: str) -> None:
        run = data.draw(st.sampled_from(self._active_runs()))
        if how == "finish" and not getattr(run, "began", False):
            self._step(run.start)
        endings: dict[str, Callable[[], None]] = {
            "finish": run.finish,
            "unreachable": lambda: run.fail(Unreachable("gone")),
            "defect": lambda: run.fail(RuntimeError("a defect")),
        }
        self._step(endings[how])

    # --- invariants -------------------------------------------------------------------------------

    @invariant()
    def jobs_are_counted_on_their_backends(self) -> None:
        running = self.jobs.in_flight
        assert running <= MAX_CONCURRENT
        in_flight = [self.pool.running[one.id] for one in self.backends]
        assert sum(in_flight) == running
        assert all(0 <= count <= CAPACITY for count in in_flight)
        assert self.ended_jobs + running == len(self.offered), "exactly one end per job"

    @invariant()
    def memory_is_bounded(self) -> None:
        streams = self.outbox.streams
        assert len(streams) <= len(self.offered)
        assert len(self.outbox._ready) <= len(streams)
        for stream in streams:
            assert stream.sent - stream.acked <= WINDOW
            assert stream.written - stream.acked < WINDOW + MAX_WRITE
        assert len(asyncio.all_tasks(self.loop)) == self.jobs.in_flight

    def teardown(self) -> None:
        """Check that every job ends and no state remains."""
        for run in self._active_runs():
            self._step(lambda run=run: run.fail(Unreachable("gone")))  # type: ignore[misc]
        for _ in range(4):  # more than the attempts of a job
            for run in self._active_runs():
                self._step(lambda run=run: run.fail(Unreachable("gone")))  # type: ignore[misc]
        for _ in range(1000):
            if not self.outbox.streams:
                break
            self.read_batch()
            self.acknowledge_received_bytes()
        assert not self.outbox.streams
        assert self.jobs.in_flight == 0
        assert self.ended_jobs == len(self.offered)
        self.runner.close()


TestHostileJobs = HostileJobs.TestCase
TestHostileJobs.settings = depth()
