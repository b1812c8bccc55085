"""What a hostile coordinator does with jobs, cancels and acknowledgements."""

from typing import Final

from agent.jobs.running import REMEMBERED_JOBS
from protocol.frames import (
    Ack,
    Cancel,
    Challenge,
    CoordinatorFrame,
    Job,
    JobError,
    Rejected,
)
from protocol.limits import MAX_LIVE_JOBS
from tests.kit.hostile_stage import Act, Attack, Stage
from tests.kit.jobs import new_job
from tests.kit.scripted_backend import ScriptedRun
from tests.kit.scripted_coordinator import NONCE, welcome

BATCH: Final = 100


async def _running(stage: Stage) -> tuple[Job, ScriptedRun]:
    job = new_job(deadline_ms=3_600_000)
    await stage.peer.give(job)
    return job, await stage.backend.next_run()


async def _ended(stage: Stage) -> Job:
    job, run = await _running(stage)
    run.answer(b"0123456789")
    await stage.peer.end(job.job_id)
    await stage.peer.settle()
    return job


async def _refused(stage: Stage, jobs: list[Job]) -> set[str]:
    """The codes that these jobs end with."""
    codes = set()
    for start in range(0, len(jobs), BATCH):
        batch = jobs[start : start + BATCH]
        await stage.peer.give(*batch)
        for job in batch:
            codes.add((await stage.peer.error(job.job_id)).code)
            assert len(stage.peer.ends(job.job_id)) == 1
        stage.forget()
    return codes


def says(*frames: CoordinatorFrame) -> Act:
    async def act(stage: Stage) -> None:
        await stage.peer.send(*frames)

    return act


async def again_while_it_runs(stage: Stage) -> None:
    job, run = await _running(stage)
    await stage.peer.send(job, job)
    run.answer(b"once")
    await stage.peer.end(job.job_id)
    await stage.peer.settle()
    assert len(stage.backend.runs) == 1
    assert len(stage.peer.ends(job.job_id)) == 1


async def again_after_its_end(stage: Stage) -> None:
    job = await _ended(stage)
    await stage.peer.send(job)
    await stage.peer.settle()
    assert len(stage.backend.runs) == 1
    assert len(stage.peer.ends(job.job_id)) == 1


async def again_after_many_others(stage: Stage) -> None:
    job = await _ended(stage)
    others = [new_job("unknown") for _ in range(REMEMBERED_JOBS)]
    await stage.peer.send(*others)
    await stage.peer.error(others[-1].job_id)
    stage.forget()
    await stage.peer.give(job)
    (await stage.backend.next_run()).answer(b"anew")
    await stage.peer.end(job.job_id)


async def ack_beyond(stage: Stage) -> None:
    job, run = await _running(stage)
    run.start()
    run.send(b"x")
    await stage.peer.wait_for_bytes(job.job_id, 1)
    await stage.peer.send(Ack(job.job_id, 2))


async def ack_backwards(stage: Stage) -> None:
    job, run = await _running(stage)
    run.start()
    run.send(bytes(100))
    await stage.peer.wait_for_bytes(job.job_id, 100)
    await stage.peer.send(*(Ack(job.job_id, offset) for offset in (100, 40, 0, 99, 100)))
    run.finish()
    assert (await stage.peer.end(job.job_id)).total_bytes == 100


async def final_ack_too_early(stage: Stage) -> None:
    job, run = await _running(stage)
    run.start()
    run.send(b"x")
    await stage.peer.wait_for_bytes(job.job_id, 1)
    await stage.peer.send(Ack(job.job_id, 1, final=True))


async def final_ack_elsewhere(stage: Stage) -> None:
    stage.peer.acknowledges = False
    job, run = await _running(stage)
    run.answer(b"0123456789")
    await stage.peer.end(job.job_id)
    await stage.peer.send(Ack(job.job_id, 9, final=True))


async def about_unknown_jobs(stage: Stage) -> None:
    job = new_job()
    await stage.peer.send(Ack(job.job_id, 2**53, final=True), Cancel(job.job_id, "who?"))


async def cancels_of_one_job(stage: Stage) -> None:
    job, run = await _running(stage)
    await stage.peer.send(*[Cancel(job.job_id, "stop")] * 1000)
    await run.cancelled.wait()
    assert (await stage.peer.error(job.job_id)).code == "cancelled"
    await stage.peer.send(*[Cancel(job.job_id, "stop")] * 1000)
    await stage.peer.settle()
    assert len(stage.peer.ends(job.job_id)) == 1


async def flood_of_cancels(stage: Stage) -> None:
    for _ in range(3):
        await stage.peer.send(*(Cancel(new_job().job_id, "x" * 4096) for _ in range(1000)))


async def flood_of_acks(stage: Stage) -> None:
    job, run = await _running(stage)
    run.start()
    run.send(b"x" * 1000)
    await stage.peer.wait_for_bytes(job.job_id, 1000)
    for _ in range(3):
        await stage.peer.send(*(Ack(job.job_id, offset) for offset in range(1000)))
    run.finish()
    await stage.peer.end(job.job_id)


async def jobs_beyond_what_it_takes(stage: Stage) -> None:
    kept = [await _running(stage), await _running(stage)]
    assert await _refused(stage, [new_job() for _ in range(300)]) == {"out_of_capacity"}
    for job, run in kept:
        run.answer(b"x")
        await stage.peer.end(job.job_id)


async def jobs_that_nobody_serves(stage: Stage) -> None:
    assert await _refused(stage, [new_job("x" * 512)]) == {"model_not_loaded"}
    odd = [new_job(wire_format="gemini"), new_job(operation="sing")]
    odd.append(new_job(operation="../../v1/embeddings"))
    assert await _refused(stage, odd) == {"format_not_supported"}


async def no_time_at_all(stage: Stage) -> None:
    job = new_job(deadline_ms=0)
    await stage.peer.give(job)
    assert (await stage.peer.error(job.job_id)).code == "deadline_exceeded"
    stage.forget()
    while not stage.backend._new_runs.empty():
        stage.backend._new_runs.get_nowait()


async def ends_never_acknowledged(stage: Stage) -> None:
    stage.peer.acknowledges = False
    jobs = [new_job("unknown") for _ in range(MAX_LIVE_JOBS)]
    await stage.peer.give(*jobs)
    for job in jobs[-1:]:
        assert isinstance(await stage.peer.end(job.job_id), JobError)
    await stage.peer.settle()
    assert not stage.peer.closed.is_set(), "so many it holds"
    await stage.peer.send(new_job("unknown"))


async def endless_message(stage: Stage) -> None:
    begin, go_on = b"\x02\x00", b"\x00\x00"  # RFC 6455, 5.2: neither is the last, both are empty
    stage.peer.socket.transport.write(begin + go_on * 100_000)


ATTACKS: Final = [
    Attack("one message in endless empty pieces", endless_message, 1009),
    Attack("a job id again, while the job runs", again_while_it_runs),
    Attack("a job id again, after the job's end", again_after_its_end),
    Attack("a job id again, after 4096 other jobs", again_after_many_others),
    Attack("an `Ack` beyond what was sent", ack_beyond, 1002),
    Attack("an `Ack` below an earlier one", ack_backwards),
    Attack("a final `Ack` before the end", final_ack_too_early, 1002),
    Attack("a final `Ack` with another offset than `total_bytes`", final_ack_elsewhere, 1002),
    Attack("`Ack` and `Cancel` of a job that it never gave", about_unknown_jobs),
    Attack("`Cancel` of one job a thousand times, also after its end", cancels_of_one_job),
    Attack("a flood of `Cancel`", flood_of_cancels),
    Attack("a flood of `Ack`", flood_of_acks),
    Attack("a flood of jobs, more than the agent takes at once", jobs_beyond_what_it_takes),
    Attack("jobs for models, formats or operations that nobody offered", jobs_that_nobody_serves),
    Attack("a job with no time at all", no_time_at_all),
    Attack(
        "more than 4096 ends that it never acknowledges",
        ends_never_acknowledged,
        1002,
    ),
    Attack("`Challenge` again", says(Challenge(NONCE, "again")), 1002),
    Attack("`Welcome` twice", says(welcome()), 1002),
    Attack("`Rejected` after `Welcome`", says(Rejected("not_enrolled", "")), 1002),
]

FLOODS: Final[list[tuple[str, Act]]] = [
    ("cancels", flood_of_cancels),
    ("acknowledgements", flood_of_acks),
    ("jobs", jobs_beyond_what_it_takes),
]
