"""An edge and a holder that exchange messages in memory, with an agent that a test plays."""

from collections import deque

from provider_agent.coordinator.agents.agent_jobs import CreateJob
from provider_agent.coordinator.cluster.edge import EdgeJobs
from provider_agent.coordinator.cluster.holder import HolderJobs
from provider_agent.coordinator.cluster.messages import (
    AgentEntry,
    EdgeFrame,
    ModelEntry,
    decode_batch,
    encode_batch,
)
from provider_agent.coordinator.cluster.relayed_job import RelayedJob
from provider_agent.coordinator.cluster.remote_agent import RemoteAgent
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation
from provider_agent.protocol.frames import JobEnd, JobResult, JobStarted, Usage
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import BATCH_BYTES, MIN_WINDOW_BYTES

EDGE, HOLDER = b"E" * 16, b"H" * 16
AGENT_KEY = b"k" * 32
WINDOW = MIN_WINDOW_BYTES
LEASE_S = 6.0


def model_entry(model_id: str = "tiny", slots: int = 8, in_flight: int = 0) -> ModelEntry:
    return ModelEntry(model_id, ["chat", "messages"], slots, in_flight)


def agent_entry(*models: ModelEntry, key: bytes = AGENT_KEY, in_flight: int = 0) -> AgentEntry:
    return AgentEntry(key, 8, in_flight, False, False, False, list(models or [model_entry()]))


def chat_job(number: int = 0, request: bytes = b'{"model":"tiny"}') -> Job:
    job_id = number.to_bytes(16, "big")
    return Job(job_id, "tiny", "openai", request, 60_000, operation="chat")


class PlayedAgent:
    """The agent at the holder, and the owner of its jobs."""

    def __init__(self) -> None:
        self.jobs: dict[bytes, RelayedJob] = {}
        self.consumed: dict[bytes, int] = {}
        self.cancelled: list[bytes] = []

    def has_job(self, job_id: bytes) -> bool:
        return job_id in self.jobs and self.jobs[job_id].end is None

    def start(self, job: Job, create: CreateJob[RelayedJob]) -> RelayedJob:
        assert job.job_id not in self.jobs, "the job ran twice"
        running = self.jobs[job.job_id] = create(job, self, 1e9, AGENT_KEY)
        self.consumed[job.job_id] = 0
        return running

    def consume(self, job: RunningJob, count: int) -> None:
        job.unconsumed -= count
        self.consumed[job.job_id] += count

    def abandon(self, job: RunningJob) -> None:
        if job.end is None:
            self.cancelled.append(job.job_id)

    def write(self, job: Job, data: bytes) -> None:
        """Send output of a job, as far as the window of the agent's connection allows it."""
        running = self.jobs[job.job_id]
        if running.started is None:
            running.on_started(JobStarted(job.job_id, 200, "text/event-stream", "played"))
        if data:
            assert running.unconsumed + len(data) <= WINDOW, "the agent may not send more"
            running.on_data(data)

    def free(self, job: Job) -> int:
        """Return how many bytes the agent may send now."""
        return WINDOW - self.jobs[job.job_id].unconsumed

    def finish(self, job: Job) -> None:
        running = self.jobs[job.job_id]
        running.on_end(JobResult(job.job_id, running.stream.written, Usage(1, 2), "played", 5, 1))


class ClusterPair:
    """The two roles, connected by queues of messages that a test delivers or drops."""

    def __init__(self) -> None:
        self.now = 100.0
        self.refusal: ErrorCode | None = None
        self.played = PlayedAgent()
        self.ended: list[JobEnd] = []
        self.to_holder: deque[bytes] = deque()
        self.to_edge: deque[bytes] = deque()
        self.edge = EdgeJobs(
            window_bytes=WINDOW,
            clock=lambda: self.now,
            wake=lambda _: None,
            job_ended=lambda _key, _model, end, _duration: self.ended.append(end),
        )
        self.holder = HolderJobs(
            accept=self._accept,
            lease_s=LEASE_S,
            clock=lambda: self.now,
            wake=lambda _: None,
        )
        self.agent = RemoteAgent(HOLDER, agent_entry(), self.edge.submit, lambda: True)

    def _accept(
        self, public_key: bytes, _model_id: str, _operation: Operation
    ) -> PlayedAgent | ErrorCode:
        assert public_key == AGENT_KEY
        return self.refusal or self.played

    def collect(self) -> None:
        """Move the queued frames of both into messages."""
        while to_holder := self.edge.next_frames(HOLDER, BATCH_BYTES):
            self.to_holder.append(encode_batch(EDGE, to_holder))
        while to_edge := self.holder.next_frames(EDGE, BATCH_BYTES):
            self.to_edge.append(encode_batch(HOLDER, to_edge))

    def deliver_one(self, queue: deque[bytes]) -> None:
        batch = decode_batch(queue.popleft())
        for frame in batch.frames:
            if isinstance(frame, EdgeFrame):
                self.holder.receive(batch.sender, frame)
            else:
                self.edge.receive(batch.sender, frame)

    def exchange(self) -> None:
        """Deliver messages until no more are queued."""
        self.collect()
        while self.to_holder or self.to_edge:
            for queue in (self.to_holder, self.to_edge):
                while queue:
                    self.deliver_one(queue)
            self.collect()

    def lose_messages(self) -> None:
        """Drop every message that is on its way."""
        self.collect()
        self.to_holder.clear()
        self.to_edge.clear()

    def read(self, running: RunningJob) -> bytes:
        """Take the output of a job, as a client that reads everything."""
        data = running.take()
        running.owner.consume(running, len(data))
        return data
