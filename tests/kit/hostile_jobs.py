"""What a hostile coordinator does with jobs, cancels and acknowledgements."""

from typing import Final

from provider_agent.agent.jobs.running import REMEMBERED_JOBS
from provider_agent.protocol.frames import (
    Ack,
    Cancel,
    Challenge,
    CoordinatorFrame,
    Job,
    JobError,
    Rejected,
)
from provider_agent.protocol.limits import MAX_LIVE_JOBS
from tests.kit.hostile_harness import Act, Attack, HostileHarness
from tests.kit.jobs import new_job
from tests.kit.scripted_backend import ScriptedRun
from tests.kit.scripted_coordinator import NONCE, welcome

BATCH: Final = 100


async def _running(harness: HostileHarness) -> tuple[Job, ScriptedRun]:
    job = new_job(deadline_ms=3_600_000)
    await harness.peer.give(job)
    return job, await harness.backend.next_run()


async def _ended(harness: HostileHarness) -> Job:
    job, run = await _running(harness)
    run.answer(b"0123456789")
    await harness.peer.end(job.job_id)
    await harness.peer.settle()
    return job


async def _refused(harness: HostileHarness, jobs: list[Job]) -> set[str]:
    """The codes that these jobs end with."""
    codes = set()
    for start in range(0, len(jobs), BATCH):
        batch = jobs[start : start + BATCH]
        await harness.peer.give(*batch)
        for job in batch:
            codes.add((await harness.peer.error(job.job_id)).code)
            assert len(harness.peer.ends(job.job_id)) == 1
        harness.forget()
    return codes


def says(*frames: CoordinatorFrame) -> Act:
    async def act(harness: HostileHarness) -> None:
        await harness.peer.send(*frames)

    return act


async def again_while_it_runs(harness: HostileHarness) -> None:
    job, run = await _running(harness)
    await harness.peer.send(job, job)
    run.answer(b"once")
    await harness.peer.end(job.job_id)
    await harness.peer.settle()
    assert len(harness.backend.runs) == 1
    assert len(harness.peer.ends(job.job_id)) == 1


async def again_after_its_end(harness: HostileHarness) -> None:
    job = await _ended(harness)
    await harness.peer.send(job)
    await harness.peer.settle()
    assert len(harness.backend.runs) == 1
    assert len(harness.peer.ends(job.job_id)) == 1


async def again_after_many_others(harness: HostileHarness) -> None:
    job = await _ended(harness)
    others = [new_job("unknown") for _ in range(REMEMBERED_JOBS)]
    await harness.peer.send(*others)
    await harness.peer.error(others[-1].job_id)
    harness.forget()
    await harness.peer.give(job)
    (await harness.backend.next_run()).answer(b"anew")
    await harness.peer.end(job.job_id)


async def ack_beyond(harness: HostileHarness) -> None:
    job, run = await _running(harness)
    run.start()
    run.send(b"x")
    await harness.peer.wait_for_bytes(job.job_id, 1)
    await harness.peer.send(Ack(job.job_id, 2))


async def ack_backwards(harness: HostileHarness) -> None:
    job, run = await _running(harness)
    run.start()
    run.send(bytes(100))
    await harness.peer.wait_for_bytes(job.job_id, 100)
    await harness.peer.send(*(Ack(job.job_id, offset) for offset in (100, 40, 0, 99, 100)))
    run.finish()
    assert (await harness.peer.end(job.job_id)).total_bytes == 100


async def final_ack_too_early(harness: HostileHarness) -> None:
    job, run = await _running(harness)
    run.start()
    run.send(b"x")
    await harness.peer.wait_for_bytes(job.job_id, 1)
    await harness.peer.send(Ack(job.job_id, 1, final=True))


async def final_ack_elsewhere(harness: HostileHarness) -> None:
    harness.peer.acknowledges = False
    job, run = await _running(harness)
    run.answer(b"0123456789")
    await harness.peer.end(job.job_id)
    await harness.peer.send(Ack(job.job_id, 9, final=True))


async def about_unknown_jobs(harness: HostileHarness) -> None:
    job = new_job()
    await harness.peer.send(Ack(job.job_id, 2**53, final=True), Cancel(job.job_id, "who?"))


async def cancels_of_one_job(harness: HostileHarness) -> None:
    job, run = await _running(harness)
    await harness.peer.send(*[Cancel(job.job_id, "stop")] * 1000)
    await run.cancelled.wait()
    assert (await harness.peer.error(job.job_id)).code == "cancelled"
    await harness.peer.send(*[Cancel(job.job_id, "stop")] * 1000)
    await harness.peer.settle()
    assert len(harness.peer.ends(job.job_id)) == 1


async def flood_of_cancels(harness: HostileHarness) -> None:
    for _ in range(3):
        await harness.peer.send(*(Cancel(new_job().job_id, "x" * 4096) for _ in range(1000)))


async def flood_of_acks(harness: HostileHarness) -> None:
    job, run = await _running(harness)
    run.start()
    run.send(b"x" * 1000)
    await harness.peer.wait_for_bytes(job.job_id, 1000)
    for _ in range(3):
        await harness.peer.send(*(Ack(job.job_id, offset) for offset in range(1000)))
    run.finish()
    await harness.peer.end(job.job_id)


async def jobs_beyond_what_it_takes(harness: HostileHarness) -> None:
    kept = [await _running(harness), await _running(harness)]
    assert await _refused(harness, [new_job() for _ in range(300)]) == {"out_of_capacity"}
    for job, run in kept:
        run.answer(b"x")
        await harness.peer.end(job.job_id)


async def jobs_that_nobody_serves(harness: HostileHarness) -> None:
    assert await _refused(harness, [new_job("x" * 512)]) == {"model_not_loaded"}
    odd = [new_job(wire_format="gemini"), new_job(operation="sing")]
    odd.append(new_job(operation="../../v1/embeddings"))
    assert await _refused(harness, odd) == {"format_not_supported"}


async def no_time_at_all(harness: HostileHarness) -> None:
    job = new_job(deadline_ms=0)
    await harness.peer.give(job)
    assert (await harness.peer.error(job.job_id)).code == "deadline_exceeded"
    harness.forget()
    while not harness.backend._new_runs.empty():
        harness.backend._new_runs.get_nowait()


async def ends_never_acknowledged(harness: HostileHarness) -> None:
    harness.peer.acknowledges = False
    jobs = [new_job("unknown") for _ in range(MAX_LIVE_JOBS)]
    await harness.peer.give(*jobs)
    for job in jobs[-1:]:
        assert isinstance(await harness.peer.end(job.job_id), JobError)
    await harness.peer.settle()
    assert not harness.peer.closed.is_set(), "so many it holds"
    await harness.peer.send(new_job("unknown"))


async def endless_message(harness: HostileHarness) -> None:
    begin, go_on = b"\x02\x00", b"\x00\x00"  # RFC 6455, 5.2: neither is the last, both are empty
    harness.peer.socket.transport.write(begin + go_on * 100_000)


ATTACKS: Final = [
    Attack("one message in endless empty fragments", endless_message, 1009),
    Attack("a job id again, while the job runs", again_while_it_runs),
    Attack("a job id again, after the job's end", again_after_its_end),
    Attack("a job id again, after 4096 other jobs", again_after_many_others),
    Attack("an `Ack` beyond what was sent", ack_beyond, 1002),
    Attack("an `Ack` below an earlier one", ack_backwards),
    Attack("a final `Ack` before the end", final_ack_too_early, 1002),
    Attack("a final `Ack` with another offset than `total_bytes`", final_ack_elsewhere, 1002),
    Attack("`Ack` and `Cancel` of an unknown job", about_unknown_jobs),
    Attack("`Cancel` of one job a thousand times, also after its end", cancels_of_one_job),
    Attack("a flood of `Cancel`", flood_of_cancels),
    Attack("a flood of `Ack`", flood_of_acks),
    Attack("a flood of jobs beyond the agent's capacity", jobs_beyond_what_it_takes),
    Attack("jobs for models, formats or operations that were not offered", jobs_that_nobody_serves),
    Attack("a job with a deadline of 0", no_time_at_all),
    Attack(
        "more than 4096 ends without an acknowledgement",
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
