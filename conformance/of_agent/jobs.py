"""Cases about jobs: requests, refusals, deadlines and cancellation.

The cases of `CLOSING` end their connection.
"""

from typing import Final

from msgspec.structs import replace

from provider_agent.conformance.agent_under_test import AgentUnderTest
from provider_agent.conformance.case import CaseList, NotTested, require
from provider_agent.conformance.coordinator_peer import (
    CoordinatorPeer,
    SentJob,
    new_job,
    new_raw_job,
)
from provider_agent.protocol.frames import (
    Cancel,
    JobError,
    JobResult,
    JobStarted,
    RequestChunk,
)

CASES = CaseList[AgentUnderTest]()
CLOSING = CaseList[AgentUnderTest]()

_JOBS: Final = "the-states-of-a-job"
_PIECES: Final = "requests"
_UNKNOWN_JOB: Final = b"\xee" * 16
_MAX_TESTED_CAPACITY: Final = 256
_REMEMBERED_IDS: Final = 4096
_BATCH: Final = 500


@CASES.must("job", _JOBS, "A job that succeeds has `JobStarted`, its bytes and a `JobResult`.")
async def runs_job(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await peer.send_job(new_job(peer.model_id))
    started = await peer.expect(JobStarted, job.job_id)
    require(200 <= started.status < 300, f"the status {started.status}")
    end = await peer.read_to_end(job)
    size = len(peer.data(job.job_id))
    require(end.total_bytes == size, f"total_bytes {end.total_bytes}, but {size} arrived")
    return f"{size} bytes"


@CASES.must("job-large", _PIECES, "A request in many pieces is joined.")
async def joins_pieces(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await peer.send_header(new_job(peer.model_id, words=30))
    for offset in range(0, len(job.request), 7):
        await peer.send(job.piece(offset, offset + 7))
    await peer.read_to_end(job)
    return f"{len(job.request)} bytes in pieces of 7"


@CASES.must("pieces-repeated", _PIECES, "Repeated bytes of a request are dropped.")
async def drops_repeated_pieces(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await peer.send_header(new_job(peer.model_id))
    size = len(job.request)
    await peer.send(job.piece(0, 20), job.piece(0, 20), job.piece(10, 30), job.piece(20, size))
    await peer.read_to_end(job)
    return "overlapping pieces"


@CASES.must("pieces-unknown", _PIECES, "A piece of an unknown job is ignored.")
async def ignores_unknown_piece(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    await peer.send(RequestChunk(_UNKNOWN_JOB, 5, b"x"))
    await peer.run_job()
    return "a job was run afterwards"


async def _expect_violation(peer: CoordinatorPeer, job: SentJob, *pieces: RequestChunk) -> str:
    await peer.send(job.header, *pieces)
    return await peer.expect_close(1002)


@CLOSING.must("pieces-gap", _PIECES, "A gap in a request closes with 1002.")
async def refuses_gap(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = new_job(peer.model_id)
    return await _expect_violation(peer, job, job.piece(0, 10), job.piece(11, 20))


@CLOSING.must("pieces-empty", _PIECES, "A piece without data closes with 1002.")
async def refuses_empty_piece(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = new_job(peer.model_id)
    return await _expect_violation(peer, job, job.piece(0, 0))


@CLOSING.must("pieces-beyond", _PIECES, "Bytes beyond `request_bytes` close with 1002.")
async def refuses_bytes_beyond(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = new_job(peer.model_id)
    return await _expect_violation(peer, job, RequestChunk(job.job_id, 0, job.request + b" "))


@CASES.must("job-twice", _JOBS, "A job that arrives again is ignored.")
async def runs_job_once(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await agent.long_job(peer)
    await peer.send(job.header)
    await peer.send_job(job)
    await peer.send(Cancel(job.job_id))
    await peer.expect_error(job, "cancelled")
    await peer.send(job.header, job.piece(0, len(job.request)))
    await peer.run_job()
    require(_count_ends(peer, job) == 1, f"{_count_ends(peer, job)} ends")
    return "one end, although the job was sent again while it ran and after its end"


def _count_ends(peer: CoordinatorPeer, job: SentJob) -> int:
    ends = [*peer.received_of(JobError, job.job_id), *peer.received_of(JobResult, job.job_id)]
    return len(ends)


@CASES.must("job-remembered", _JOBS, "The last 4096 job ids are remembered.")
async def remembers_job_ids(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await peer.send_job(new_job(peer.model_id))
    await peer.read_to_end(job)
    others = [new_job("conformance-no-such-model") for _ in range(_REMEMBERED_IDS - 1)]
    for start in range(0, len(others), _BATCH):
        batch = others[start : start + _BATCH]
        await peer.send(*(other.header for other in batch))
        for other in batch:
            await peer.expect_error(other, "model_not_loaded")
    await peer.send(job.header, job.piece(0, len(job.request)))
    await peer.run_job()
    require(_count_ends(peer, job) == 1, f"{_count_ends(peer, job)} ends")
    return f"ignored after {len(others)} other jobs"


@CASES.must("model-unknown", _JOBS, "A model that is not served: `model_not_loaded`.")
async def refuses_unknown_model(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await peer.send_job(new_job("conformance-no-such-model"))
    return f"{(await peer.expect_error(job, 'model_not_loaded')).code}"


@CASES.must("format-unknown", _JOBS, "An unsupported format or operation: `format_not_supported`.")
async def refuses_unknown_format(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    for wire_format, operation in (("x-conformance", ""), ("openai", "x-conformance")):
        job = new_raw_job(peer.model_id, b"{}", wire_format=wire_format, operation=operation)
        await peer.send_job(job)
        await peer.expect_error(job, "format_not_supported")
    return "an unknown format and an unknown operation"


@CASES.must("request-invalid", _JOBS, "A request that is not one JSON object: `bad_request`.")
async def refuses_invalid_request(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    for request in (b"[]", b"{", b"{} {}", b"\xff\xfe"):
        job = await peer.send_job(new_raw_job(peer.model_id, request))
        await peer.expect_error(job, "bad_request")
    return "an array, an incomplete object, two objects, and bytes that are not UTF-8"


@CASES.must("request-empty", _PIECES, "With `request_bytes` 0 no piece follows: `bad_request`.")
async def refuses_empty_request(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await peer.send_header(new_raw_job(peer.model_id, b""))
    return f"{(await peer.expect_error(job, 'bad_request')).code} without a piece"


@CASES.must("capacity", _JOBS, "A job beyond `max_concurrent`: `out_of_capacity`, at once.")
async def refuses_beyond_capacity(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    limit = peer.capabilities.limits.max_concurrent
    if limit > _MAX_TESTED_CAPACITY:
        raise NotTested(f"the agent accepts {limit} jobs at once")
    held = [await peer.send_header(new_job(peer.model_id)) for _ in range(limit)]
    extra = await peer.send_header(new_job(peer.model_id))
    await peer.expect_error(extra, "out_of_capacity")
    await peer.send(*(Cancel(job.job_id) for job in held))
    for job in held:
        await peer.expect_error(job, "cancelled")
    await peer.run_job()
    return f"refused beside {limit} running jobs; after their ends another job was run"


@CASES.must("deadline", _JOBS, "After `deadline_ms` a job ends with `deadline_exceeded`.")
async def limits_duration(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await peer.send_job(new_job(peer.model_id, words=peer.long_words, deadline_ms=400))
    end = await peer.expect_error(job, "deadline_exceeded")
    return f"ended after {end.total_bytes} bytes"


@CASES.must("deadline-request", _PIECES, "The deadline counts from the arrival of the header.")
async def limits_upload(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await peer.send_header(new_job(peer.model_id, deadline_ms=300))
    await peer.expect_error(job, "deadline_exceeded")
    return "ended while its request was missing"


@CASES.must("deadline-zero", _JOBS, "A job with `deadline_ms` 0 ends with `deadline_exceeded`.")
async def ends_job_with_zero_deadline(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await peer.send_job(new_job(peer.model_id, deadline_ms=0))
    return f"{(await peer.expect_error(job, 'deadline_exceeded')).code}"


@CASES.must("cancel", _JOBS, "`Cancel` ends a job with `cancelled`, also while its window is full.")
async def cancels(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await agent.long_job(peer)
    await peer.send(Cancel(job.job_id, "conformance"))
    end = await peer.expect_error(job, "cancelled")
    size = len(peer.data(job.job_id))
    require(end.total_bytes == size, f"total_bytes {end.total_bytes}, but {size} arrived")
    return f"ended after {size} bytes"


@CASES.must("cancel-request", _JOBS, "`Cancel` ends a job whose request is still arriving.")
async def cancels_upload(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await peer.send_header(new_job(peer.model_id))
    await peer.send(job.piece(0, 10), Cancel(job.job_id), job.piece(10, 20))
    await peer.expect_error(job, "cancelled")
    await peer.run_job()
    return "ended; a later piece was ignored"


@CASES.must("cancel-late", _JOBS, "A `Cancel` after the end, or of an unknown job, is ignored.")
async def ignores_late_cancel(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await peer.send_job(new_job(peer.model_id))
    await peer.read_to_end(job)
    await peer.send(Cancel(job.job_id), Cancel(_UNKNOWN_JOB))
    await peer.run_job()
    require(_count_ends(peer, job) == 1, f"{_count_ends(peer, job)} ends")
    return "one end"


@CASES.must("end-backend", "ends", "A failed job reports its backend and `first_byte_ms`.")
async def reports_backend_of_failure(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await agent.long_job(peer)
    await peer.send(Cancel(job.job_id, "conformance"))
    end = await peer.expect_error(job, "cancelled")
    require(bool(end.backend_id), "no backend_id")
    require(end.first_byte_ms is not None, "no first_byte_ms although bytes arrived")
    return f"backend {end.backend_id}, {end.duration_ms} ms"


@CASES.must("names-unknown", "versions", "An unknown format closes no connection.")
async def accepts_unknown_names(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = new_raw_job(peer.model_id, b"{}", wire_format="x" * 512)
    job = replace(job, header=replace(job.header, traceparent="x-conformance"))
    await peer.send_job(job)
    await peer.expect_error(job, "format_not_supported")
    await peer.run_job()
    return "a job was run afterwards"
