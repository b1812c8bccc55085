"""Cases about resumption: the table in docs/protocol.md#resumption, and the rules around it."""

from typing import Final

from msgspec.structs import replace

from provider_agent.conformance.agent_peer import AgentPeer, new_process, result
from provider_agent.conformance.case import CaseList, require
from provider_agent.conformance.coordinator_under_test import CoordinatorUnderTest
from provider_agent.conformance.played_job import PlayedJob
from provider_agent.protocol.frames import (
    Ack,
    Cancel,
    JobHeader,
    LiveJob,
    RequestChunk,
    ResumedJob,
)
from provider_agent.protocol.limits import KIB

CASES = CaseList[CoordinatorUnderTest]()

_RESUMPTION: Final = "resumption"
FIRST: Final = b'data: {"choices":[1]}\n\n'
SECOND: Final = b"data: [DONE]\n\n"
LARGE_REQUEST_BYTES: Final = 700 * KIB


def _resumed(agent: AgentPeer, job: PlayedJob) -> ResumedJob | None:
    """The entry of a job in `Welcome.resumed`."""
    entries = [entry for entry in agent.welcome.resumed if entry.job_id == job.job_id]
    require(len(entries) <= 1, "a job twice in `resumed`")
    return entries[0] if entries else None


def _require_resumed(agent: AgentPeer, job: PlayedJob, offset: int, *, ended: bool = False) -> None:
    entry = _resumed(agent, job)
    require(entry is not None, "the job is not in `resumed`")
    observed = "" if entry is None else f"resumed at {entry.offset}, ended {entry.ended}"
    require(entry == ResumedJob(job.job_id, offset, ended), observed)


async def _started_job(coordinator: CoordinatorUnderTest) -> PlayedJob:
    """A job whose client has received the first part of the response."""
    job = await coordinator.start(await coordinator.connect())
    await job.write(FIRST)
    await job.client.read(len(FIRST))
    return job


async def _finish(job: PlayedJob, expected: bytes) -> None:
    """Finish a job; its client must receive `expected` in addition to what it has read."""
    await job.finish()
    received, whole = await job.client.read_all()
    require(whole and received == expected, f"the client received {len(received)} more bytes")


@CASES.must("resume-part-running", _RESUMPTION, "A running job continues where it stopped.")
async def continues_running_job(coordinator: CoordinatorUnderTest) -> str:
    job = await _started_job(coordinator)
    job.agent = await coordinator.reconnect(job.agent, job.live())
    _require_resumed(job.agent, job, len(FIRST))
    await job.write(SECOND)
    await _finish(job, SECOND)
    return f"resumed at {len(FIRST)}"


@CASES.must(
    "resume-part-ended", _RESUMPTION, "A job that the agent has ended continues where it stopped."
)
async def continues_ended_job(coordinator: CoordinatorUnderTest) -> str:
    job = await _started_job(coordinator)
    await job.agent.cut()
    job.sent += len(SECOND)  # as if `SECOND` had been sent, and lost with the link
    job.agent = await coordinator.resume(job.agent, job.live(ended=True))
    _require_resumed(job.agent, job, len(FIRST))
    job.sent = len(FIRST)
    await job.write(SECOND)
    await _finish(job, SECOND)
    return f"resumed at {len(FIRST)}, then received the end"


@CASES.must("resume-repeats", _RESUMPTION, "Repeated bytes are dropped.")
async def drops_repeated_bytes(coordinator: CoordinatorUnderTest) -> str:
    job = await _started_job(coordinator)
    job.agent = await coordinator.reconnect(job.agent, job.live())
    job.sent = 5
    await job.write(FIRST[5:] + SECOND)
    await _finish(job, SECOND)
    return "a chunk that starts below the received offset"


@CASES.must("resume-twice", _RESUMPTION, "A session survives several lost links.")
async def survives_several_cuts(coordinator: CoordinatorUnderTest) -> str:
    job = await _started_job(coordinator)
    for _ in range(3):
        job.agent = await coordinator.reconnect(job.agent, job.live())
        _require_resumed(job.agent, job, job.sent)
        await job.write(FIRST)
        await job.client.read(len(FIRST))
    await job.write(SECOND)
    await _finish(job, SECOND)
    return "three cuts"


@CASES.must("resume-nothing-running", _RESUMPTION, "A job without a byte continues from 0.")
async def continues_from_zero(coordinator: CoordinatorUnderTest) -> str:
    job = await coordinator.start(await coordinator.connect())
    await job.agent.settle()
    job.agent = await coordinator.reconnect(job.agent, job.live())
    _require_resumed(job.agent, job, 0)
    await job.start()  # sent again, because the job is resumed at 0
    await job.write(SECOND)
    await _finish(job, SECOND)
    return "resumed at 0; JobStarted was accepted again"


@CASES.must("resume-request", _RESUMPTION, "A request continues from `request_offset`.")
async def continues_request(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    job = await coordinator.submit(agent, pad_bytes=LARGE_REQUEST_BYTES)
    arrived = 100_000
    live = replace(job.live(), request_offset=arrived)
    job.agent = await coordinator.reconnect(agent, live)
    _require_resumed(job.agent, job, 0)
    request = job.submitted[:arrived]
    while len(request) < job.header.request_bytes:
        piece = await job.agent.expect(RequestChunk, job.job_id)
        require(piece.offset == len(request), f"a piece at {piece.offset}, not {len(request)}")
        request += piece.data
    require(request == job.submitted, "the request differs from what the client sent")
    await job.start()
    await job.write(SECOND)
    await _finish(job, SECOND)
    return f"continued from {arrived}"


@CASES.should(
    "resume-nothing-unknown",
    _RESUMPTION,
    "An unstarted job that the agent does not know is sent again.",
)
async def sends_lost_job_again(coordinator: CoordinatorUnderTest) -> str:
    job = await coordinator.submit(await coordinator.connect(), pad_bytes=10_000)
    job.agent = await coordinator.reconnect(job.agent)
    header = await job.agent.expect(JobHeader)
    require(header.job_id == job.job_id, "another job id")
    require(header.deadline_ms <= job.header.deadline_ms, "a later deadline")
    require(await job.agent.expect_request(header) == job.submitted, "another request")
    await job.start()
    await job.write(SECOND)
    await _finish(job, SECOND)
    return "the same header and request"


@CASES.must(
    "resume-part-unknown",
    _RESUMPTION,
    "A partly received job that the agent does not know has failed.",
)
async def fails_lost_part(coordinator: CoordinatorUnderTest) -> str:
    job = await _started_job(coordinator)
    agent = await coordinator.reconnect(job.agent)
    require(_resumed(agent, job) is None, "a job that Hello did not list is in `resumed`")
    return await _require_failure(job)


@CASES.must(
    "resume-gap", _RESUMPTION, "A job whose next byte the agent no longer holds has failed."
)
async def fails_missing_byte(coordinator: CoordinatorUnderTest) -> str:
    job = await _started_job(coordinator)
    job.sent += 100  # as if 100 more bytes had been sent, and the first of them dropped
    live = job.live(first_offset=len(FIRST) + 1)
    agent = await coordinator.reconnect(job.agent, live)
    require(_resumed(agent, job) is None, "a job with a missing byte is in `resumed`")
    return await _require_failure(job)


async def _require_failure(job: PlayedJob) -> str:
    """Check that the client cannot mistake a part of the response for the whole."""
    received, whole = await job.client.read_all()
    require(not whole or b"error" in received, "the client received a complete response")
    return "an error event for the client" if whole else "the client's connection was aborted"


@CASES.must(
    "resume-ended",
    _RESUMPTION,
    "A job whose end has arrived is reported as `ended`, or left out.",
)
async def reports_delivered_end(coordinator: CoordinatorUnderTest) -> str:
    job = await _started_job(coordinator)
    await _finish(job, b"")
    agent = await coordinator.reconnect(job.agent, job.live(ended=True))
    entry = _resumed(agent, job)
    if entry is None:
        return "left out of `resumed`"
    _require_resumed(agent, job, job.sent, ended=True)
    return f"[{job.sent}, ended]"


@CASES.must(
    "resume-cancelled",
    _RESUMPTION,
    "A job that was cancelled is cancelled again, or left out.",
)
async def cancels_again(coordinator: CoordinatorUnderTest) -> str:
    job = await _started_job(coordinator)
    await job.client.disconnect()
    await job.agent.expect(Cancel, job.job_id)
    job.sent += 1000  # as if 1000 more bytes had been sent, and lost with the link
    agent = await coordinator.reconnect(job.agent, job.live())
    if _resumed(agent, job) is None:
        return "left out of `resumed`"
    _require_resumed(agent, job, job.sent)
    ack = await agent.expect(Ack, job.job_id)
    require(ack.offset == job.sent, f"an Ack of {ack.offset}, not {job.sent}")
    await agent.expect(Cancel, job.job_id)
    job.agent = agent
    await job.fail("cancelled")
    return "resumed at `next_offset`, acknowledged, cancelled"


@CASES.must("resume-unknown", _RESUMPTION, "A job that the coordinator does not know is left out.")
async def leaves_out_unknown_job(coordinator: CoordinatorUnderTest) -> str:
    job = await _started_job(coordinator)
    unknown = LiveJob(b"\xee" * 16, 0, 10)
    job.agent = await coordinator.reconnect(job.agent, job.live(), unknown)
    _require_resumed(job.agent, job, len(FIRST))
    require(len(job.agent.welcome.resumed) == 1, "an unknown job is in `resumed`")
    await _finish(job, b"")
    return "only the known job is in `resumed`"


@CASES.must("resume-other-key", _RESUMPTION, "A session belongs to its key.")
async def keeps_session_from_other_key(coordinator: CoordinatorUnderTest) -> str:
    job = await _started_job(coordinator)
    session_id = job.agent.welcome.session_id
    thief = new_process(model_id=job.agent.process.model_id)
    agent = await coordinator.connect(thief, session_id=session_id, live_jobs=[job.live()])
    require(_resumed(agent, job) is None, "the job of another key was resumed")
    require(agent.welcome.session_id != session_id, "the same session id")
    await job.write(SECOND)
    await _finish(job, SECOND)
    return "a new session; the owner's job was finished"


@CASES.must("resume-open", _RESUMPTION, "A session is resumed while its older link is open.")
async def resumes_open_session(coordinator: CoordinatorUnderTest) -> str:
    job = await _started_job(coordinator)
    older, job.agent = job.agent, await coordinator.resume(job.agent, job.live())
    _require_resumed(job.agent, job, len(FIRST))
    await older.send(result(job.job_id, job.sent))  # must not be read: it comes from the older link
    await job.write(SECOND)
    await _finish(job, SECOND)
    await older.expect_close(4001)
    return "the older connection was closed with 4001"


@CASES.must("resume-after-violation", _RESUMPTION, "After a violation the session is over.")
async def ends_session_after_violation(coordinator: CoordinatorUnderTest) -> str:
    job = await _started_job(coordinator)
    await job.agent.send_raw(b"\xc1")
    await job.agent.expect_close(1002)
    observed = await _require_failure(job)
    agent = await coordinator.resume(job.agent, job.live())
    require(_resumed(agent, job) is None, "the job was resumed")
    return observed
