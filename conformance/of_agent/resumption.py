"""Cases about resumption and draining."""

import asyncio
from typing import Final

from provider_agent.conformance.agent_under_test import AgentUnderTest
from provider_agent.conformance.case import CaseList, require
from provider_agent.conformance.coordinator_peer import (
    CoordinatorPeer,
    SentJob,
    new_job,
    new_welcome,
)
from provider_agent.conformance.peer import SILENCE_S
from provider_agent.protocol.frames import (
    Ack,
    Cancel,
    Chunk,
    Drain,
    JobStarted,
    LiveJob,
    ResumedJob,
)

CASES = CaseList[AgentUnderTest]()
CLOSING = CaseList[AgentUnderTest]()

_RESUMPTION: Final = "resumption"


async def _lost_long_job(agent: AgentUnderTest) -> tuple[CoordinatorPeer, SentJob, LiveJob, bytes]:
    """Start a long job, cut its link, and check its entry in the next `Hello.live_jobs`.

    Returns:
        The agent's next connection, after `Hello`; the job; its entry in `live_jobs`; and the
        response bytes that arrived before the cut.
    """
    lost = await agent.connected()
    job = await agent.long_job(lost)
    received = lost.data(job.job_id)
    peer, live = await agent.reconnected(lost, job)
    require(not live.ended, "a running job with `ended`")
    observed = f"bytes {live.first_offset} to {live.next_offset}, but {len(received)} were received"
    require(live.first_offset == 0 and live.next_offset >= len(received), observed)
    observed = f"request_offset {live.request_offset} of {len(job.request)}"
    require(live.request_offset == len(job.request), observed)
    return peer, job, live, received


@CASES.must("resume-running", _RESUMPTION, "A running job continues from exactly the named offset.")
async def continues_running_job(agent: AgentUnderTest) -> str:
    peer, job, _, received = await _lost_long_job(agent)
    await agent.resume(peer, job, len(received))
    end = await peer.read_to_end(job, len(received))
    chunks = peer.received_of(Chunk, job.job_id)
    require(chunks[0].offset == len(received), f"the first byte is {chunks[0].offset}")
    total = len(received) + len(peer.data(job.job_id))
    require(end.total_bytes == total, f"total_bytes {end.total_bytes}, but {total} arrived")
    require(not peer.received_of(JobStarted, job.job_id), "JobStarted again")
    return f"continued at {len(received)} of {end.total_bytes} bytes"


@CASES.must("resume-zero", _RESUMPTION, "From offset 0 `JobStarted` is sent again.")
async def starts_again_from_zero(agent: AgentUnderTest) -> str:
    peer, job, _, received = await _lost_long_job(agent)
    await agent.resume(peer, job, 0)
    await peer.expect(JobStarted, job.job_id)
    repeated = await peer.expect_bytes(job, len(received))
    require(repeated[: len(received)] == received, "the repeated bytes differ")
    await peer.read_to_end(job)
    return f"the same {len(received)} bytes again"


@CASES.must("resume-no-ack", _RESUMPTION, "Naming an offset acknowledges nothing.")
async def keeps_bytes_that_were_only_named(agent: AgentUnderTest) -> str:
    peer, job, _, received = await _lost_long_job(agent)
    await agent.resume(peer, job, len(received))
    again, live = await agent.reconnected(peer, job)
    require(live.first_offset == 0, f"first_offset {live.first_offset} without an Ack")
    await agent.resume(again, job, 100)
    await again.read_to_end(job, 100)
    first = again.received_of(Chunk, job.job_id)[0]
    require(first.offset == 100, f"the first byte is {first.offset}")
    require(first.data[:50] == received[100:150], "other bytes than before")
    return "the bytes were still held after two lost links"


@CASES.must("resume-not-named", _RESUMPTION, "A job that is not named is cancelled and forgotten.")
async def forgets_unnamed_job(agent: AgentUnderTest) -> str:
    peer, job, _, _ = await _lost_long_job(agent)
    await peer.admit()
    await peer.run_job()
    require(not peer.data(job.job_id), "bytes of a job that was not named")
    await peer.cut()
    again = await agent.listener.next_dialed()
    hello = await again.authenticate()
    require(all(live.job_id != job.job_id for live in hello.live_jobs), "the job is in live_jobs")
    await again.admit()
    await again.run_job()
    return "no byte, no end, and not in the next live_jobs"


async def _lost_ended_job(agent: AgentUnderTest) -> tuple[CoordinatorPeer, SentJob, LiveJob]:
    """Run a job, cut the link before its end is acknowledged, and check its next `live_jobs` entry.

    Returns:
        The agent's next connection, after `Hello`; the job; and its entry in `live_jobs`.
    """
    lost = await agent.connected()
    job = await lost.send_job(new_job(lost.model_id))
    end = await lost.expect_end(job, acknowledge=False)
    peer, live = await agent.reconnected(lost, job)
    require(live.ended, "an ended job without `ended`")
    observed = f"next_offset {live.next_offset}, total_bytes {end.total_bytes}"
    require(live.next_offset == end.total_bytes, observed)
    return peer, job, live


@CASES.must(
    "resume-ended", _RESUMPTION, "The end of a job is sent again if it is not acknowledged."
)
async def repeats_end(agent: AgentUnderTest) -> str:
    peer, job, live = await _lost_ended_job(agent)
    await agent.resume(peer, job, live.next_offset)
    end = await peer.expect_end(job)
    require(end.total_bytes == live.next_offset, f"total_bytes {end.total_bytes}")
    require(not peer.data(job.job_id), "bytes after the last one")
    return "only the end"


@CASES.must("resume-delivered", _RESUMPTION, "An end that the coordinator has is not sent again.")
async def forgets_delivered_job(agent: AgentUnderTest) -> str:
    peer, job, live = await _lost_ended_job(agent)
    await peer.admit(new_welcome(resumed=[ResumedJob(job.job_id, live.next_offset, ended=True)]))
    await peer.run_job()
    require(not peer.data(job.job_id), "bytes of a delivered job")
    await peer.cut()
    again = await agent.listener.next_dialed()
    hello = await again.authenticate()
    require(all(live.job_id != job.job_id for live in hello.live_jobs), "the job is in live_jobs")
    await again.admit()
    await again.run_job()
    return "forgotten"


@CASES.must(
    "resume-ack-at-once", _RESUMPTION, "A final `Ack` in the message of `Welcome` is valid."
)
async def accepts_final_ack_at_once(agent: AgentUnderTest) -> str:
    peer, job, live = await _lost_ended_job(agent)
    welcome = new_welcome(resumed=[ResumedJob(job.job_id, live.next_offset)])
    await peer.admit(welcome, Ack(job.job_id, live.next_offset, final=True))
    await peer.run_job()
    return "accepted"


@CASES.must(
    "resume-ack-ahead", "flow-control", "An `Ack` of what an earlier link carried is valid."
)
async def accepts_ack_ahead(agent: AgentUnderTest) -> str:
    peer, job, _, received = await _lost_long_job(agent)
    welcome = new_welcome(resumed=[ResumedJob(job.job_id, 0)])
    await peer.admit(welcome, Ack(job.job_id, len(received)))
    end = await peer.read_to_end(job, len(received))
    return f"resumed at 0, acknowledged {len(received)} of {end.total_bytes}"


@CASES.must("resume-cancelled", _RESUMPTION, "A resumed job can be cancelled at once.")
async def cancels_resumed_job(agent: AgentUnderTest) -> str:
    peer, job, live, _ = await _lost_long_job(agent)
    offset = live.next_offset
    welcome = new_welcome(resumed=[ResumedJob(job.job_id, offset)])
    await peer.admit(welcome, Ack(job.job_id, offset), Cancel(job.job_id, "cancelled meanwhile"))
    end = await peer.expect_error(job, "cancelled")
    require(end.total_bytes >= offset, f"total_bytes {end.total_bytes} below {offset}")
    return f"ended at {end.total_bytes}"


@CASES.must(
    "resume-request", _RESUMPTION, "`request_offset` counts the bytes of a request that arrived."
)
async def continues_request(agent: AgentUnderTest) -> str:
    lost = await agent.connected()
    job = await lost.send_header(new_job(lost.model_id))
    await lost.send(job.piece(0, 25))
    await asyncio.sleep(SILENCE_S)  # so that the piece arrives
    peer, live = await agent.reconnected(lost, job)
    require(live.request_offset == 25, f"request_offset {live.request_offset}, but 25 arrived")
    await agent.resume(peer, job, 0)
    await peer.send(job.piece(25, len(job.request)))
    await peer.read_to_end(job)
    return "continued from 25"


@CLOSING.must("resume-offset", _RESUMPTION, "An offset above `next_offset` closes with 1002.")
async def refuses_other_offset(agent: AgentUnderTest) -> str:
    peer, job, live, _ = await _lost_long_job(agent)
    await peer.send(new_welcome(resumed=[ResumedJob(job.job_id, live.next_offset + 1)]))
    return await peer.expect_close(1002)


@CASES.must("resume-off", _RESUMPTION, "With `resume_ms` 0 no session is resumed.")
async def forgets_session_without_resumption(agent: AgentUnderTest) -> str:
    peer = await agent.dialed()
    await peer.authenticate()
    await peer.admit(new_welcome(resume_ms=0))
    await peer.run_job()
    await agent.long_job(peer)
    await peer.cut()
    again = await agent.listener.next_dialed()
    hello = await again.authenticate()
    require(hello.session_id is None, "Hello names a session")
    require(not hello.live_jobs, f"{len(hello.live_jobs)} live jobs")
    await again.admit()
    await again.run_job()
    return "session_id null, no live jobs"


@CASES.must("drain", "draining", "After `Drain` the agent finishes its jobs and closes with 1000.")
async def finishes_jobs_when_drained(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await agent.long_job(peer)
    await peer.send(Drain("conformance", 0))
    await asyncio.sleep(SILENCE_S)
    require(not peer.closed.is_set(), "closed before its job was finished")
    await peer.read_to_end(job)
    observed = await peer.expect_close(1000)
    again = await agent.listener.next_dialed()
    await again.authenticate()
    await again.admit()
    await again.run_job()
    return f"{observed}, and reconnected"
