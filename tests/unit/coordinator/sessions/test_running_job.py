import asyncio

from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.protocol.frames import JobError, JobResult, JobStarted, Usage
from provider_agent.protocol.job import Job

JOB_ID = bytes(16)
JOB = Job(JOB_ID, "tiny", "openai", b"{}", 1000)
RESULT = JobResult(JOB_ID, 0, Usage(None, None), "b", 1, None)


class FakeOwner:
    def consume(self, job: RunningJob, count: int) -> None: ...

    def abandon(self, job: RunningJob) -> None: ...


OWNER = FakeOwner()


async def test_wait_returns_at_the_first_byte_and_take_returns_all_bytes() -> None:
    job = RunningJob(JOB, OWNER, 0.0)
    waiting = asyncio.create_task(job.wait())
    job.on_started(JobStarted(JOB_ID, 200, "text/plain", "b"))
    await asyncio.sleep(0)
    assert not waiting.done()
    job.on_data(b"ab")
    job.on_data(b"c")
    await waiting
    assert job.buffered_bytes == 3
    assert job.take() == b"abc"
    assert job.take() == b""
    assert job.unconsumed == 3


async def test_wait_returns_when_the_job_ends_and_does_not_block_afterwards() -> None:
    job = RunningJob(JOB, OWNER, 0.0)
    waiting = asyncio.create_task(job.wait())
    job.on_end(RESULT)
    await waiting
    await job.wait()


async def test_second_end_is_ignored() -> None:
    job = RunningJob(JOB, OWNER, 0.0)
    job.on_end(RESULT)
    job.on_end(JobError(JOB_ID, 0, "internal", ""))
    assert job.end is RESULT


async def test_cancelled_wait_loses_no_bytes() -> None:
    job = RunningJob(JOB, OWNER, 0.0)
    waiting = asyncio.create_task(job.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    job.on_data(b"a")
    await job.wait()
    assert job.take() == b"a"


async def test_callback_replaces_the_wake_up_of_wait() -> None:
    job = RunningJob(JOB, OWNER, 0.0)
    buffered: list[int] = []
    job.set_output_callback(lambda: buffered.append(job.buffered_bytes))
    job.on_data(b"abcd")
    job.on_data(b"e")
    job.on_end(RESULT)
    job.set_output_callback(None)
    job.on_data(b"f")
    assert buffered == [4, 5, 5]
    assert [job.take(2), job.take(2), job.take()] == [b"ab", b"cd", b"ef"]


async def test_repr_shows_the_job_id_and_the_buffered_bytes() -> None:
    job = RunningJob(JOB, OWNER, 0.0)
    job.on_data(b"ab")
    assert repr(job) == f"<RunningJob {JOB_ID.hex()} open buffered=2>"
