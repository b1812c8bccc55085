import pytest

from provider_agent.agent.telemetry.job_status import RunningJobStatus
from provider_agent.agent.telemetry.running_jobs import MAX_SPAN_S, MIN_SPAN_S, RunningJobs
from tests.kit.fake_clock import FakeClock
from tests.kit.jobs import new_job, submit_job
from tests.kit.jobs_harness import JobsHarness
from tests.kit.scripted_backend import ScriptedBackend

RATIOS = {("scripted:http://b", "m", "openai"): 10.0}


class SpeedHarness:
    """One running job, on a clock that the test advances."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.backend = ScriptedBackend()
        self.harness = JobsHarness(self.backend, clock=self.clock)
        self.speeds = RunningJobs(self.clock)

    def read(self) -> RunningJobStatus:
        (job,) = self.speeds.snapshot(self.harness.jobs.running, RATIOS)
        return job


async def test_speed_is_measured_between_two_readings() -> None:
    it = SpeedHarness()
    job = new_job()
    submit_job(it.harness.jobs, job)
    run = await it.backend.next_run()
    it.clock.now += 2
    waiting = RunningJobStatus(
        id=job.job_id.hex(),
        model_id="m",
        backend_id=it.backend.id,
        format="openai",
        age_s=2.0,
    )
    assert it.read() == waiting

    run.start()
    run.send(b"x" * 100)
    it.clock.now += 2
    first = it.read()
    assert (first.age_s, first.first_byte_ms, first.bytes) == (4.0, 2000.0, 100)
    assert (first.bytes_per_second, first.tokens_per_second) == (50.0, 5.0)

    run.send(b"x" * 600)
    it.clock.now += 2
    assert it.read().bytes_per_second == 300.0
    # A second page at the same time must not measure over an interval of almost zero.
    it.clock.now += MIN_SPAN_S / 2
    assert it.read().bytes_per_second == 300.0

    it.clock.now += 2
    assert it.read().bytes_per_second == 0.0  # the backend is silent

    it.clock.now += MAX_SPAN_S + 1
    assert it.read().bytes_per_second == pytest.approx(700 / (it.read().age_s - 2))
    run.finish()
    await it.harness.end(job)
    assert it.speeds.snapshot(it.harness.jobs.running, RATIOS) == []


async def test_tokens_are_unknown_without_earlier_jobs() -> None:
    it = SpeedHarness()
    job = new_job()
    submit_job(it.harness.jobs, job)
    run = await it.backend.next_run()
    run.start()
    run.send(b"x" * 100)
    it.clock.now += 1
    (found,) = it.speeds.snapshot(it.harness.jobs.running, {})
    assert (found.bytes_per_second, found.tokens_per_second) == (100.0, None)
    run.finish()
    await it.harness.end(job)
