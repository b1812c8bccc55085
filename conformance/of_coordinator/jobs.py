"""Cases about jobs: requests, responses, ends and cancellation."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from msgspec.structs import replace

from provider_agent.conformance.agent_peer import chunk, error, result, started
from provider_agent.conformance.case import CaseList, NotTested, require
from provider_agent.conformance.client import chat_body
from provider_agent.conformance.coordinator_under_test import CoordinatorUnderTest
from provider_agent.conformance.peer import SILENCE_S
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    Cancel,
    Draining,
    JobHeader,
    Receipt,
    RequestChunk,
    ResponseHeader,
)
from provider_agent.protocol.limits import CHUNK_BYTES, KIB, MIB
from provider_agent.protocol.receipts import FEATURE

CASES = CaseList[CoordinatorUnderTest]()

_JOBS: Final = "the-states-of-a-job"
_REQUESTS: Final = "requests"
LARGE_REQUEST_BYTES: Final = 700 * KIB
HUGE_REQUEST_BYTES: Final = 15 * MIB
"""More than the kernel buffers between two local processes."""

UNKNOWN_JOB: Final = b"\xee" * 16
EVENT: Final = b'data: {"choices":[]}\n\n'
ANSWER: Final = EVENT + b"data: [DONE]\n\n"


@CASES.must("job", "jobheader", "A client's request arrives unchanged as one job.")
async def sends_job(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    job = await coordinator.submit(agent)
    request = await agent.expect_request(job.header)
    require(request == job.submitted, "the request differs from what the client sent")
    header = job.header
    require(header.format == "openai", f"the format {header.format!r}")
    require(header.operation in ("", "chat"), f"the operation {header.operation!r}")
    require(header.deadline_ms > 0, "no time until the deadline")
    return f"{len(request)} bytes, deadline {header.deadline_ms} ms"


@CASES.must("job-large", _REQUESTS, "A large request arrives in pieces, without a gap.")
async def sends_large_job(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    job = await coordinator.submit(agent, pad_bytes=LARGE_REQUEST_BYTES)
    require(await agent.expect_request(job.header) == job.submitted, "the request differs")
    pieces = agent.received_of(RequestChunk, job.job_id)
    largest = max(len(piece.data) for piece in pieces)
    return f"{len(pieces)} pieces of at most {largest} bytes"


@CASES.should("job-pieces", _REQUESTS, "A piece of a request has at most 64 KiB.")
async def sends_small_pieces(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    job = await coordinator.submit(agent, pad_bytes=LARGE_REQUEST_BYTES)
    await agent.expect_request(job.header)
    largest = max(len(piece.data) for piece in agent.received_of(RequestChunk))
    require(largest <= CHUNK_BYTES, f"a piece of {largest} bytes")
    return f"at most {largest} bytes"


@CASES.must("response", "chunk", "The client receives the response unchanged.")
async def relays_response(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    job = await coordinator.start(agent, "text/event-stream; charset=utf-8")
    data = bytes(range(256)) * 64
    for offset in range(0, len(data), 1000):
        await job.write(data[offset : offset + 1000])
    await job.finish()
    response = await job.client.response()
    received, whole = await job.client.read_all()
    require(whole, f"the client received {len(received)} of {len(data)} bytes")
    require(received == data, "the client received other bytes")
    require(response.status == 200, f"the client received HTTP {response.status}")
    content_type = response.headers.get("Content-Type", "")
    require(content_type == "text/event-stream; charset=utf-8", f"Content-Type {content_type!r}")
    return f"{len(data)} bytes, status and content type"


@CASES.must("response-headers", "jobstarted", "Unknown headers do not reach the client.")
async def forwards_only_known_headers(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    job = await coordinator.submit(agent)
    headers = [ResponseHeader("x-conformance", "1"), ResponseHeader("openai-processing-ms", "7")]
    await agent.send(replace(started(job.job_id), headers=headers))
    await job.write(ANSWER)
    await job.finish()
    received = (await job.client.response()).headers
    require("x-conformance" not in received, "x-conformance reached the client")
    return f"openai-processing-ms: {received.get('openai-processing-ms', 'left out')}"


@CASES.must("response-streams", "flow-control", "Bytes reach the client before the end.")
async def relays_at_once(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    job = await coordinator.start(agent)
    await job.write(ANSWER)
    require(await job.client.read(len(ANSWER)) == ANSWER, "the client received other bytes")
    await job.finish()
    return "the first bytes arrived while the job was running"


@CASES.must("response-empty", _JOBS, "A result without a byte is a complete response.")
async def relays_empty_response(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    job = await coordinator.start(agent)
    await job.finish()
    received, whole = await job.client.read_all()
    require(whole and not received, f"the client received {len(received)} bytes")
    return "the client received an empty response"


@CASES.should("receipts", "receipts", "A job fails if its receipt has another hash.")
async def checks_receipts(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect(features=[FEATURE])
    if FEATURE not in agent.welcome.features:
        raise NotTested("the coordinator does not use the feature")
    job = await coordinator.start(agent)
    await job.write(ANSWER)
    await agent.send(replace(result(job.job_id, len(ANSWER)), receipt=Receipt(bytes(32))))
    await job.expect_final_ack()
    received, whole = await job.client.read_all()
    require(not whole or b"error" in received, "the client received a complete response")
    return "the client received an error"


@CASES.must(
    "error", "joberror", "A job that fails before its first byte is an error for the client."
)
async def reports_error(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    job = await coordinator.submit(agent)
    await job.fail("backend_error")
    response = await job.client.response()
    require(response.status >= 400, f"the client received HTTP {response.status}")
    return f"HTTP {response.status}"


@CASES.must(
    "error-late",
    "joberror",
    "A response that fails midway does not look complete to the client.",
)
async def reports_late_error(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    job = await coordinator.start(agent)
    event = b'data: {"choices":[]}\n\n'
    await job.write(event)
    await job.fail("backend_error")
    received, whole = await job.client.read_all()
    require(received.startswith(event), "the client lost bytes that had arrived")
    require(not whole or b"error" in received, "the response ends as if it were complete")
    return "an error event" if whole else "the client's connection was aborted"


@CASES.must("final-ack", _JOBS, "Every end is finally acknowledged with its `total_bytes`.")
async def acknowledges_ends(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    ended, failed = await coordinator.start(agent), await coordinator.submit(agent)
    await ended.write(ANSWER)
    await ended.finish()
    await failed.fail()
    return f"acknowledged a result at {len(ANSWER)} and an error at 0"


@CASES.must("final-ack-unknown", _JOBS, "The end of an unknown job is finally acknowledged.")
async def acknowledges_unknown_end(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    await agent.send(result(UNKNOWN_JOB, 7))
    ack = await agent.expect(Ack, UNKNOWN_JOB)
    require(ack.final and ack.offset == 7, f"an Ack of {ack.offset}, final {ack.final}")
    return "acknowledged"


@CASES.must("end-twice", _JOBS, "An end that arrives again is acknowledged again, without effect.")
async def accepts_repeated_end(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    job = await coordinator.start(agent)
    await job.write(ANSWER)
    await job.finish()
    await job.finish()
    received, _ = await job.client.read_all()
    require(received == ANSWER, f"the client received {len(received)} bytes")
    return "acknowledged twice"


@CASES.must("unknown-job", _JOBS, "`JobStarted` and `Chunk` of an unknown job are ignored.")
async def ignores_unknown_job(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    await agent.send(started(UNKNOWN_JOB), chunk(UNKNOWN_JOB, 5, b"x"))
    return await agent.expect_open()


Build = Callable[[bytes], list[AgentFrame]]
"""Builds the frames of a violation for a job id."""


def _violation_case(build: Build) -> Callable[[CoordinatorUnderTest], Awaitable[str]]:
    async def run(coordinator: CoordinatorUnderTest) -> str:
        agent = await coordinator.connect()
        job = await coordinator.submit(agent)
        await agent.send(*build(job.job_id))
        closed = await agent.expect_close(1002)
        response = await job.client.response()
        _, whole = await job.client.read_all()
        require(response.status >= 400 or not whole, "the client received a complete response")
        return closed

    return run


_VIOLATIONS: Final[dict[str, tuple[str, Build]]] = {
    "chunk-first": ("A `Chunk` before `JobStarted`", lambda job: [chunk(job, 0, b"x")]),
    "started-twice": ("A second `JobStarted`", lambda job: [started(job), started(job)]),
    "chunk-gap": ("A gap before a `Chunk`", lambda job: [started(job), chunk(job, 1, b"x")]),
    "chunk-empty": ("A `Chunk` without data", lambda job: [started(job), chunk(job, 0, b"")]),
    "total-bytes": (
        "An end whose `total_bytes` differs from what arrived",
        lambda job: [started(job), result(job, 1)],
    ),
}
for _id, (_what, _build) in _VIOLATIONS.items():
    CASES.add(_id, _JOBS, f"{_what} closes with 1002.", _violation_case(_build))


@CASES.must("cancel", "cancel", "A client that disconnects cancels its job.")
async def cancels(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    job = await coordinator.start(agent)
    await job.write(EVENT)  # after the final event, a client may leave without a `Cancel`
    await job.client.read(len(EVENT))
    await job.client.disconnect()
    await agent.expect(Cancel, job.job_id)
    await job.write(EVENT)  # as if it had crossed `Cancel`
    await job.fail("cancelled")
    return "received Cancel; the end was acknowledged"


@CASES.should("cancel-acks", _JOBS, "After `Cancel` the coordinator acknowledges what arrives.")
async def acknowledges_after_cancel(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    job = await coordinator.start(agent)
    await job.client.disconnect()
    await agent.expect(Cancel, job.job_id)
    for _ in range(4):
        await job.write(bytes(agent.welcome.window_bytes // 4))
    await agent.expect(Ack, job.job_id)
    await job.fail("cancelled")
    return "acknowledged discarded bytes"


@CASES.must("requests-overtaken", _REQUESTS, "Control frames are sent before pieces of a request.")
async def sends_control_frames_first(coordinator: CoordinatorUnderTest) -> str:
    agent, other = await coordinator.connect(), await coordinator.connect()
    agent.socket.transport.pause_reading()
    model = agent.process.model_id
    large = await coordinator.post(chat_body(model, pad_bytes=HUGE_REQUEST_BYTES))
    await asyncio.sleep(SILENCE_S)
    small = await coordinator.post(chat_body(model))
    # This job is requested after `small`: once it ends, the coordinator has received `small` too.
    await coordinator.run_job(other)
    await asyncio.sleep(SILENCE_S)
    agent.socket.transport.resume_reading()
    header = await agent.expect(JobHeader, where=lambda job: job.request_bytes < KIB)
    arrived = sum(len(piece.data) for piece in agent.received_of(RequestChunk))
    require(arrived < HUGE_REQUEST_BYTES, "a job's header came after the whole request of another")
    await agent.send(error(header.job_id, 0, "backend_error"))
    await small.response()
    await large.disconnect()
    return f"a header after {arrived} of {HUGE_REQUEST_BYTES} bytes of another request"


@CASES.must("cancel-request", _REQUESTS, "After `Cancel` no further piece of the request is sent.")
async def drops_request_after_cancel(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    job = await coordinator.submit(agent, pad_bytes=8 * LARGE_REQUEST_BYTES)
    agent.socket.transport.pause_reading()
    await job.client.disconnect()
    await asyncio.sleep(SILENCE_S)
    agent.socket.transport.resume_reading()
    await agent.expect(Cancel, job.job_id)
    await job.fail("cancelled")
    frames = [f for f in agent.received if isinstance(f, Cancel | RequestChunk)]
    require(isinstance(frames[-1], Cancel), "a piece of the request after Cancel")
    return "no piece after Cancel"


@CASES.must("draining-agent", "draining", "A draining agent receives no more jobs.")
async def sends_no_job_to_draining_agent(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    running = await coordinator.start(agent)
    await agent.send(Draining(60_000))
    await agent.settle()
    await asyncio.sleep(SILENCE_S)  # so that `Draining` takes effect before the next request
    request = await coordinator.post(running.submitted)
    await agent.expect_none(JobHeader)
    await running.write(ANSWER)
    await running.finish()
    await request.disconnect()
    return "the running job was finished, no other one sent"
