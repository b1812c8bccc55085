"""The jobs of an agent on a bench: scripted backends behind, a coordinator's part in front."""

from collections import Counter

from provider_agent.adapters.base import Backend, BackendError, Job, Operation
from provider_agent.agent.backends.routing import Route
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.jobs.running import JobRecord, Jobs
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.frames import Ack, AgentFrame, Chunk, JobEnd, JobError, JobResult
from provider_agent.protocol.limits import MIB
from tests.kit.jobs import new_job
from tests.kit.scripted_backend import ScriptedBackend, ScriptedRun
from tests.kit.virtual_time import now


class FakeBackendPool:
    """Every backend serves every model but "unknown"."""

    def __init__(self, *backends: Backend) -> None:
        self.backends = {one.id: one for one in backends}
        self.operations = frozenset({Operation.CHAT, Operation.MESSAGES})
        self.running: Counter[str] = Counter()
        """Jobs on each backend now."""
        self.out: set[str] = set()
        self.told: list[tuple[str, str, int]] = []
        """What the jobs said of the backends: backend, what happened, tokens."""

    def routes(self, model_id: str) -> list[Route]:
        return [
            Route(one.id, order, True, self.operations, self.running[one.id], one.max_concurrent)
            for order, one in enumerate(self.backends.values())
            if model_id != "unknown" and one.id not in self.out
        ]

    def backend(self, backend_id: str) -> Backend:
        return self.backends[backend_id]

    def job_started(self, backend_id: str) -> int:
        self.running[backend_id] += 1
        self.told.append((backend_id, "started", 0))
        return self.told.count((backend_id, "started", 0))

    def job_ended(
        self, backend_id: str, number: int, error: BackendError | None, tokens: int
    ) -> None:
        assert number > 0, "an end without a start"
        self.running[backend_id] -= 1
        self.told.append((backend_id, str(error.code) if error else "ok", tokens))

    def job_stopped(self, backend_id: str, number: int) -> None:
        self.running[backend_id] -= 1
        self.told.append((backend_id, "stopped", 0))


class JobsHarness:
    """Jobs with all that they need, and what came of them."""

    def __init__(
        self,
        *backends: Backend,
        max_concurrent: int = 100,
        tokens_per_minute: int | None = None,
    ) -> None:
        self.outbox = Outbox()
        self.records: list[JobRecord] = []
        self.serving = FakeBackendPool(*backends)
        self.jobs = Jobs(
            self.serving,
            self.outbox,
            max_concurrent,
            self.records.append,
            now,
            tokens_per_minute=tokens_per_minute,
        )
        self.sent: list[AgentFrame] = []

    def pump(self, *, acknowledge: bool = True) -> None:
        """Send what there is; what goes out must come back in, as from any peer."""
        while batch := self.outbox.next_batch():
            decoded = VERSION_1.decode_from_agent(VERSION_1.encode(batch), 4 * MIB)
            assert decoded.frames == batch
            self.sent += batch
            for frame in batch if acknowledge else []:
                match frame:
                    case Chunk():
                        end = frame.offset + len(frame.data)
                        self.outbox.acknowledge(Ack(frame.job_id, end))
                    case JobResult() | JobError():
                        ack = Ack(frame.job_id, frame.total_bytes, final=True)
                        self.outbox.acknowledge(ack)

    def ends(self, job: Job) -> list[JobEnd]:
        self.pump()
        return [
            one
            for one in self.sent
            if isinstance(one, JobResult | JobError) and one.job_id == job.job_id
        ]

    def data(self, job: Job) -> bytes:
        self.pump()
        chunks = [one for one in self.sent if isinstance(one, Chunk) and one.job_id == job.job_id]
        return b"".join(one.data for one in chunks)

    async def end(self, job: Job) -> JobEnd:
        """The one end of a job, once nothing runs any more."""
        await self.jobs.wait_until_idle()
        (end,) = self.ends(job)
        return end

    async def error(self, job: Job) -> JobError:
        end = await self.end(job)
        assert isinstance(end, JobError), end
        return end

    def refusal(self, job: Job) -> JobError:
        """The end of a job that was refused on the spot."""
        (end,) = self.ends(job)
        assert isinstance(end, JobError)
        return end


async def running(harness: JobsHarness, backend: ScriptedBackend) -> tuple[Job, ScriptedRun]:
    job = new_job()
    harness.jobs.offer(job)
    return job, await backend.next_run()
