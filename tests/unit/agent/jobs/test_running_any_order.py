import asyncio
import random

import pytest

from provider_agent.adapters.base import (
    BadStatus,
    Job,
    Unreachable,
)
from provider_agent.agent.jobs.execution import StopReason
from provider_agent.protocol.errors import ErrorCode
from tests.kit.jobs import new_job, submit_job
from tests.kit.jobs_harness import JobsHarness
from tests.kit.scripted_backend import ScriptedBackend, ScriptedRun

EVENTS = ["submit", "submit", "resubmit", "answer", "fail", "cancel", "step", "pump"]


@pytest.mark.parametrize("seed", range(25))
async def test_every_job_has_one_end_after_any_sequence_of_events(seed: int) -> None:
    rng = random.Random(seed)
    backends = [ScriptedBackend(name, max_concurrent=4) for name in ("a", "b")]
    harness = JobsHarness(*backends, max_concurrent=6)
    jobs: list[Job] = []
    failures = [
        Unreachable("no"),
        BadStatus(500, b"", ErrorCode.BACKEND_ERROR),
        BadStatus(422, b"", ErrorCode.BAD_REQUEST),
    ]

    def random_run() -> ScriptedRun | None:
        runs = [one for backend in backends for one in backend.runs if not one.outcome.done()]
        return rng.choice(runs) if runs else None

    for _ in range(150):
        match rng.choice(EVENTS):
            case "submit":
                jobs.append(new_job(rng.choice(["m", "m", "m", "unknown"])))
                submit_job(harness.jobs, jobs[-1])
            case "resubmit" if jobs:
                submit_job(harness.jobs, rng.choice(jobs))
            case "answer" if run := random_run():
                run.answer(b"x" * rng.randrange(1, 100))
            case "fail" if run := random_run():
                run.fail(rng.choice([*failures, RuntimeError("bug")]))
            case "cancel" if jobs:
                harness.jobs.cancel(rng.choice(jobs).job_id, "cancelled by the test")
            case "step":
                await asyncio.sleep(0)
            case "pump":
                harness.pump(acknowledge=rng.random() < 0.7)
        on_backends = [harness.pool.running[one.id] for one in backends]
        assert all(0 <= count <= 4 for count in on_backends)
        # A failed attempt frees its backend at once; its job ends one iteration of the loop later.
        assert sum(on_backends) <= harness.jobs.in_flight <= 6
        assert 0 <= harness.jobs.queued <= harness.jobs.in_flight
    harness.jobs.stop_all(StopReason.DRAINING, "the end of the test")
    await harness.jobs.wait_until_idle()
    assert len(harness.records) == len(jobs)
    assert [len(harness.ends(job)) for job in jobs] == [1] * len(jobs)
    assert [harness.pool.running[one.id] for one in backends] == [0, 0]
    outcomes = [outcome for _, outcome, _ in harness.pool.outcomes]
    assert outcomes.count("started") == len(outcomes) / 2, "every attempt has one outcome"
    assert outcomes.count("started") == sum(one.attempts for one in harness.records)
