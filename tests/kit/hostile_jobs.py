"""Attacks of a hostile coordinator with jobs, cancels and acknowledgements."""

from typing import Final

from provider_agent.agent.jobs.running import REMEMBERED_JOBS
from provider_agent.protocol.frames import (
    Ack,
    Cancel,
    Challenge,
    CoordinatorFrame,
    JobError,
    Rejected,
)
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import MAX_LIVE_JOBS
from tests.kit.hostile_harness import Attack, AttackAction, HostileHarness
from tests.kit.jobs import new_job
from tests.kit.scripted_backend import ScriptedRun
from tests.kit.scripted_coordinator import NONCE, welcome

BATCH: Final = 100


async def _start_job(harness: HostileHarness) -> tuple[Job, ScriptedRun]:
    job = new_job(deadline_ms=3_600_000)
    await harness.peer.send_jobs(job)
    return job, await harness.backend.next_run()


async def _finish_job(harness: HostileHarness) -> Job:
    job, run = await _start_job(harness)
    run.answer(b"0123456789")
    await harness.peer.end(job.job_id)
    await harness.peer.settle()
    return job


async def _refusal_codes(harness: HostileHarness, jobs: list[Job]) -> set[str]:
    """Send jobs, and return the error codes that they end with."""
    codes = set()
    for start in range(0, len(jobs), BATCH):
        batch = jobs[start : start + BATCH]
        await harness.peer.send_jobs(*batch)
        for job in batch:
            codes.add((await harness.peer.error(job.job_id)).code)
            assert len(harness.peer.ends(job.job_id)) == 1
        harness.clear_history()
    return codes


def send(*frames: CoordinatorFrame) -> AttackAction:
    async def perform(harness: HostileHarness) -> None:
        await harness.peer.send(*frames)

    return perform


async def repeat_running_job(harness: HostileHarness) -> None:
    job, run = await _start_job(harness)
    await harness.peer.send(job, job)
    run.answer(b"once")
    await harness.peer.end(job.job_id)
    await harness.peer.settle()
    assert len(harness.backend.runs) == 1
    assert len(harness.peer.ends(job.job_id)) == 1


async def repeat_ended_job(harness: HostileHarness) -> None:
    job = await _finish_job(harness)
    await harness.peer.send(job)
    await harness.peer.settle()
    assert len(harness.backend.runs) == 1
    assert len(harness.peer.ends(job.job_id)) == 1


async def repeat_forgotten_job(harness: HostileHarness) -> None:
    job = await _finish_job(harness)
    others = [new_job("unknown") for _ in range(REMEMBERED_JOBS)]
    await harness.peer.send(*others)
    await harness.peer.error(others[-1].job_id)
    harness.clear_history()
    await harness.peer.send_jobs(job)
    (await harness.backend.next_run()).answer(b"again")
    await harness.peer.end(job.job_id)


async def acknowledge_unsent_bytes(harness: HostileHarness) -> None:
    job, run = await _start_job(harness)
    run.start()
    run.send(b"x")
    await harness.peer.wait_for_bytes(job.job_id, 1)
    await harness.peer.send(Ack(job.job_id, 2))


async def acknowledge_backwards(harness: HostileHarness) -> None:
    job, run = await _start_job(harness)
    run.start()
    run.send(bytes(100))
    await harness.peer.wait_for_bytes(job.job_id, 100)
    await harness.peer.send(*(Ack(job.job_id, offset) for offset in (100, 40, 0, 99, 100)))
    run.finish()
    assert (await harness.peer.end(job.job_id)).total_bytes == 100


async def acknowledge_end_too_early(harness: HostileHarness) -> None:
    job, run = await _start_job(harness)
    run.start()
    run.send(b"x")
    await harness.peer.wait_for_bytes(job.job_id, 1)
    await harness.peer.send(Ack(job.job_id, 1, final=True))


async def acknowledge_end_at_other_offset(harness: HostileHarness) -> None:
    harness.peer.acknowledges = False
    job, run = await _start_job(harness)
    run.answer(b"0123456789")
    await harness.peer.end(job.job_id)
    await harness.peer.send(Ack(job.job_id, 9, final=True))


async def send_frames_of_unknown_job(harness: HostileHarness) -> None:
    job = new_job()
    await harness.peer.send(Ack(job.job_id, 2**53 - 1, final=True), Cancel(job.job_id, "who?"))


async def cancel_one_job_many_times(harness: HostileHarness) -> None:
    job, run = await _start_job(harness)
    await harness.peer.send(*[Cancel(job.job_id, "stop")] * 1000)
    await run.cancelled.wait()
    assert (await harness.peer.error(job.job_id)).code == "cancelled"
    await harness.peer.send(*[Cancel(job.job_id, "stop")] * 1000)
    await harness.peer.settle()
    assert len(harness.peer.ends(job.job_id)) == 1


async def flood_with_cancels(harness: HostileHarness) -> None:
    for _ in range(15):
        await harness.peer.send(*(Cancel(new_job().job_id, "x" * 4096) for _ in range(200)))


async def flood_with_acks(harness: HostileHarness) -> None:
    job, run = await _start_job(harness)
    run.start()
    run.send(b"x" * 1000)
    await harness.peer.wait_for_bytes(job.job_id, 1000)
    for _ in range(3):
        await harness.peer.send(*(Ack(job.job_id, offset) for offset in range(1000)))
    run.finish()
    await harness.peer.end(job.job_id)


async def flood_with_jobs(harness: HostileHarness) -> None:
    running = [await _start_job(harness), await _start_job(harness)]
    assert await _refusal_codes(harness, [new_job() for _ in range(300)]) == {"out_of_capacity"}
    for job, run in running:
        run.answer(b"x")
        await harness.peer.end(job.job_id)


async def send_unsupported_jobs(harness: HostileHarness) -> None:
    assert await _refusal_codes(harness, [new_job("x" * 512)]) == {"model_not_loaded"}
    odd = [new_job(wire_format="gemini"), new_job(operation="sing")]
    odd.append(new_job(operation="../../v1/embeddings"))
    assert await _refusal_codes(harness, odd) == {"format_not_supported"}


async def send_job_without_time(harness: HostileHarness) -> None:
    job = new_job(deadline_ms=0)
    await harness.peer.send_jobs(job)
    assert (await harness.peer.error(job.job_id)).code == "deadline_exceeded"
    harness.clear_history()
    # If this job has reached the backend, `next_run` must not return its run for the next job.
    while not harness.backend._new_runs.empty():
        harness.backend._new_runs.get_nowait()


async def acknowledge_no_end(harness: HostileHarness) -> None:
    harness.peer.acknowledges = False
    jobs = [new_job("unknown") for _ in range(MAX_LIVE_JOBS)]
    await harness.peer.send_jobs(*jobs)
    for job in jobs[-1:]:
        assert isinstance(await harness.peer.end(job.job_id), JobError)
    await harness.peer.settle()
    assert not harness.peer.closed.is_set(), "the agent closed the connection below the limit"
    await harness.peer.send(new_job("unknown"))


async def send_endless_message(harness: HostileHarness) -> None:
    first, next_ = b"\x02\x00", b"\x00\x00"  # RFC 6455, 5.2: empty fragments without FIN
    harness.peer.socket.transport.write(first + next_ * 100_000)


ATTACKS: Final = [
    Attack("one message in endless empty fragments", send_endless_message, 1009),
    Attack("a job id again, while the job runs", repeat_running_job),
    Attack("a job id again, after the job's end", repeat_ended_job),
    Attack("a job id again, after 4096 other jobs", repeat_forgotten_job),
    Attack("an `Ack` beyond what was sent", acknowledge_unsent_bytes, 1002),
    Attack("an `Ack` below an earlier one", acknowledge_backwards),
    Attack("a final `Ack` before the end", acknowledge_end_too_early, 1002),
    Attack(
        "a final `Ack` with another offset than `total_bytes`",
        acknowledge_end_at_other_offset,
        1002,
    ),
    Attack("`Ack` and `Cancel` of an unknown job", send_frames_of_unknown_job),
    Attack("`Cancel` of one job a thousand times, also after its end", cancel_one_job_many_times),
    Attack("a flood of `Cancel`", flood_with_cancels),
    Attack("a flood of `Ack`", flood_with_acks),
    Attack("a flood of jobs beyond the agent's capacity", flood_with_jobs),
    Attack("jobs for models, formats or operations that were not offered", send_unsupported_jobs),
    Attack("a job with a deadline of 0", send_job_without_time),
    Attack(
        "more than 4096 ends without an acknowledgement",
        acknowledge_no_end,
        1002,
    ),
    Attack("`Challenge` again, before or after `Welcome`", send(Challenge(NONCE, "again")), 1002),
    Attack("`Welcome` twice", send(welcome()), 1002),
    Attack("`Rejected` after `Welcome`", send(Rejected("not_enrolled", "")), 1002),
]

FLOODS: Final[list[tuple[str, AttackAction]]] = [
    ("cancels", flood_with_cancels),
    ("acknowledgements", flood_with_acks),
    ("jobs", flood_with_jobs),
]
