"""Runs an agent's `Jobs` on scripted backends, and acknowledges frames as a coordinator does."""

import time
from collections import Counter
from collections.abc import Callable

from provider_agent.adapters.base import Backend, BackendError, Job, Operation
from provider_agent.agent.backends.admission import AdmissionControl, Admitted, Check
from provider_agent.agent.backends.attempt import Attempt
from provider_agent.agent.backends.model_use import JobTiming
from provider_agent.agent.backends.routing import Route
from provider_agent.agent.jobs.job_record import JobRecord
from provider_agent.agent.jobs.outbox import Outbox
from provider_agent.agent.jobs.receipt_issuer import ReceiptIssuer
from provider_agent.agent.jobs.running import Jobs
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.frames import Ack, AgentFrame, Chunk, JobEnd, JobError, JobResult
from provider_agent.protocol.limits import MIB
from tests.kit.jobs import new_job, submit_job
from tests.kit.scripted_backend import ScriptedBackend, ScriptedRun
from tests.kit.virtual_time import now


class RecordingAdmission(AdmissionControl):
    """Admits every job, and records the outcomes of attempts.

    Args:
        backend: the backend whose attempts are recorded.
        outcomes: receives an entry at the start of each attempt, and another at its outcome. An
            entry is the backend's id, then "started", "succeeded", "abandoned" or the error code
            of a failure, then the tokens consumed so far.
    """

    def __init__(self, backend: Backend, outcomes: list[tuple[str, str, int]]) -> None:
        super().__init__(backend, None, time.monotonic)
        self._backend = backend
        self._outcomes = outcomes
        self._tokens = 0

    def start(self, model_id: str) -> Admitted:
        self._outcomes.append((self._backend.id, "started", 0))
        return ()

    def consume(self, tokens: int) -> None:
        self._tokens = tokens

    def succeeded(self, admitted: Admitted) -> None:
        self._outcomes.append((self._backend.id, "succeeded", self._tokens))

    def failed(self, admitted: Admitted, error: BackendError, request: int) -> Check:
        self._outcomes.append((self._backend.id, str(error.code), self._tokens))
        return Check.NOTHING

    def abandoned(self, admitted: Admitted) -> None:
        self._outcomes.append((self._backend.id, "abandoned", self._tokens))


class FakeBackendPool:
    """A backend pool in which every backend serves every model except "unknown".

    Attributes:
        operations: the operations that every backend supports.
        running: the number of jobs on each backend now, by backend id.
        unavailable: ids of backends that serve nothing now.
        outcomes: see `RecordingAdmission`.
        timings: the timings of the completed streams.
    """

    def __init__(self, *backends: Backend) -> None:
        self.backends = {one.id: one for one in backends}
        self.operations = frozenset({Operation.CHAT, Operation.MESSAGES})
        self.running: Counter[str] = Counter()
        self.unavailable: set[str] = set()
        self.outcomes: list[tuple[str, str, int]] = []
        self.timings: list[JobTiming] = []

    def routes(self, model_id: str) -> list[Route]:
        return [
            Route(one, order, True, self.operations, self.running[one.id], one.max_concurrent)
            for order, one in enumerate(self.backends.values())
            if model_id != "unknown" and one.id not in self.unavailable
        ]

    def start(self, route: Route) -> Attempt:
        backend_id = route.backend_id
        self.running[backend_id] += 1

        def settled(_: Check) -> None:
            self.running[backend_id] -= 1

        admission = RecordingAdmission(route.backend, self.outcomes)
        return Attempt(route.backend, admission, route.model_id, settled, self.timings.append)

    async def answers(self, backend_id: str) -> bool:
        return (await self.backends[backend_id].health()).reachable


class JobsHarness:
    """`Jobs` on a `FakeBackendPool`, with the records of ended jobs and all frames sent."""

    def __init__(
        self,
        *backends: Backend,
        max_concurrent: int = 100,
        tokens_per_minute: int | None = None,
        receipts: ReceiptIssuer | None = None,
        clock: Callable[[], float] = now,
    ) -> None:
        self.outbox = Outbox()
        self.records: list[JobRecord] = []
        self.pool = FakeBackendPool(*backends)
        self.jobs = Jobs(
            self.pool,
            self.outbox,
            max_concurrent,
            self.records.append,
            clock,
            tokens_per_minute=tokens_per_minute,
            receipts=receipts,
        )
        self.sent: list[AgentFrame] = []

    def pump(self, *, acknowledge: bool = True) -> None:
        """Move all queued frames to `sent`, and acknowledge them unless `acknowledge` is False.

        Checks that encoding and decoding do not change the frames.
        """
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
        """Wait until no job runs, and return the one end of `job`."""
        await self.jobs.wait_until_idle()
        (end,) = self.ends(job)
        return end

    async def error(self, job: Job) -> JobError:
        end = await self.end(job)
        assert isinstance(end, JobError), end
        return end

    def refusal(self, job: Job) -> JobError:
        """Return the end of a job that was refused when it was submitted."""
        (end,) = self.ends(job)
        assert isinstance(end, JobError)
        return end


async def start_job(harness: JobsHarness, backend: ScriptedBackend) -> tuple[Job, ScriptedRun]:
    """Submit a job, and wait until the backend executes it."""
    job = new_job()
    submit_job(harness.jobs, job)
    return job, await backend.next_run()
