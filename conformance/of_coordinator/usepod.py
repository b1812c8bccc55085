"""The cases that only a coordinator of the dialect `usepod` has.

The dialect names no rules of its own, so these are what its agents need and what docs/usepod.md
promises of a coordinator.
"""

import asyncio
import json
from typing import Final

from provider_agent.conformance.agent_peer import AgentPeer, Process, chunk, error, offer, result
from provider_agent.conformance.case import CaseList, NotHeld, require
from provider_agent.conformance.coordinator_under_test import CoordinatorUnderTest
from provider_agent.conformance.of_coordinator.jobs import ANSWER, EVENT, LARGE_REQUEST_BYTES
from provider_agent.conformance.peer import SILENCE_S
from provider_agent.conformance.played_job import PlayedJob
from provider_agent.conformance.usepod_agent_peer import UsepodAgentPeer
from provider_agent.conformance.usepod_cases import ANCHOR
from provider_agent.protocol.frames import (
    AgentLimits,
    Cancel,
    Capabilities,
    Challenge,
    Heartbeat,
    JobHeader,
)
from provider_agent.protocol.limits import KIB, MIB

CASES = CaseList[CoordinatorUnderTest]()

MIN_NONCE_BYTES: Final = 16
HEARTBEAT_S: Final = 15.0
_IDLE: Final = Heartbeat(0, 0, 16, None, None, None, None)
UNREAD_BYTES: Final = 1 * MIB


async def _enter(
    coordinator: CoordinatorUnderTest, process: Process | None = None, **more: object
) -> AgentPeer:
    """Connect without an enrollment code if the process is known; add fields to all messages."""
    peer = await coordinator.dial(process)
    assert isinstance(peer, UsepodAgentPeer)  # noqa: S101 - for the type checker
    peer.more = more
    code = "" if process else coordinator.target.enrollment_code
    await peer.send(await peer.hello(coordinator.target.authority, enrollment_code=code))
    await peer.expect_welcome()
    await peer.advertise(offer(peer.process.model_id))
    return peer


async def _begun_job(coordinator: CoordinatorUnderTest, agent: AgentPeer) -> PlayedJob:
    """A job whose client has received the first event of the response."""
    job = await coordinator.start(agent)
    await job.write(EVENT)
    await job.client.read(len(EVENT))
    return job


async def _require_answer(job: PlayedJob, expected: bytes) -> None:
    """Check that the rest of the response is `expected`, and that it looks complete."""
    received, whole = await job.client.read_all()
    require(whole and received == expected, f"the client received {len(received)} other bytes")


async def _require_incomplete(job: PlayedJob) -> str:
    received, whole = await job.client.read_all()
    require(not whole or b"error" in received, "the client received a complete response")
    return "an error event for the client" if whole else "the client's connection was aborted"


# --- the handshake --------------------------------------------------------------------------------


@CASES.must("usepod-upgrade", ANCHOR, "An upgrade without a subprotocol is accepted.")
async def accepts_plain_upgrade(coordinator: CoordinatorUnderTest) -> str:
    selected = (await coordinator.dial()).socket.subprotocol
    require(selected is None, f"selected {selected!r}")
    return "accepted, none selected"


@CASES.must("usepod-nonce", ANCHOR, "The nonce has at least 16 bytes.")
async def sends_long_nonce(coordinator: CoordinatorUnderTest) -> str:
    nonce = (await (await coordinator.dial()).expect(Challenge)).nonce
    require(len(nonce) >= MIN_NONCE_BYTES, f"{len(nonce)} bytes")
    return f"{len(nonce)} bytes"


@CASES.must("usepod-auth-ok", ANCHOR, "A valid signature: `auth_ok` with a provider id.")
async def admits(coordinator: CoordinatorUnderTest) -> str:
    provider_id = (await coordinator.connect()).welcome.provider_id
    require(bool(provider_id), "no provider id")
    return f"provider id {provider_id}"


@CASES.must("usepod-reconnect", ANCHOR, "A known agent is admitted again, without a code.")
async def admits_again(coordinator: CoordinatorUnderTest) -> str:
    lost = await coordinator.connect()
    job = await _begun_job(coordinator, lost)
    await lost.cut()
    agent = await _enter(coordinator, lost.process)
    await _require_incomplete(job)
    await agent.send(chunk(job.job_id, len(EVENT), ANSWER), result(job.job_id, len(ANSWER)))
    await coordinator.run_job(agent)
    require(not agent.received_of(JobHeader, job.job_id), "it continues a job of the lost link")
    return "its older job is over, and another one was run"


@CASES.should("usepod-provider-id", ANCHOR, "The provider id of a key stays the same.")
async def keeps_provider_id(coordinator: CoordinatorUnderTest) -> str:
    lost = await coordinator.connect()
    await lost.cut()
    ids = {lost.welcome.provider_id}
    ids.add((await _enter(coordinator, lost.process)).welcome.provider_id)
    require(len(ids) == 1, f"{' and '.join(sorted(ids))}")
    return "the same on two connections"


@CASES.must("usepod-heartbeat", ANCHOR, "An agent with a heartbeat every 15 s stays connected.")
async def keeps_agent_with_heartbeats(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    for _ in range(2):
        await agent.send(_IDLE)
        await asyncio.sleep(HEARTBEAT_S)
    await coordinator.run_job(agent)
    return "a job was run after two heartbeats"


# --- jobs -----------------------------------------------------------------------------------------


def _body(model_id: str, text: str) -> bytes:
    message = {"role": "user", "content": text}
    further = {"stream": True, "temperature": 0.5, "x-conformance": {"a": [1, None, "é\n"]}}
    return json.dumps({"model": model_id, "messages": [message], **further}).encode()


@CASES.must("usepod-job", ANCHOR, "The body of a client's request is the `request` of one `job`.")
async def sends_job(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    for text in ('€ 𝄞 "\\\x7f', "x" * LARGE_REQUEST_BYTES):
        body = _body(agent.process.model_id, text)
        job = await coordinator.submit(agent, body=body)
        request = await agent.expect_request(job.header)
        require(json.loads(request) == json.loads(body), "the request differs")
        require(job.header.format == "openai", f"the format {job.header.format!r}")
        require(job.header.deadline_ms > 0, "no time until the deadline")
        await job.fail()
    return f"equal requests, also one of {LARGE_REQUEST_BYTES // KIB} KiB"


@CASES.must("usepod-limits", ANCHOR, "No more jobs are sent than `capabilities` allow.")
async def respects_limits(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    model = agent.process.model_id
    for of_model, of_agent in ((1, 16), (16, 1)):
        await agent.send(Capabilities(2, [offer(model, of_model)], AgentLimits(of_agent)))
        await agent.settle()
        await asyncio.sleep(SILENCE_S)  # so that they take effect before the next request
        job = await coordinator.start(agent)
        request = await coordinator.post(job.submitted)
        await agent.expect_none(JobHeader)
        await job.write(ANSWER)
        await job.finish()
        if request.answered:
            status = (await request.response()).status
            require(status >= 400, f"the client received HTTP {status}")
        else:
            header = await agent.expect(JobHeader)
            await agent.send(error(header.job_id, 0))
            await request.response()
    return "one job at a time, if the model or the agent has that limit"


@CASES.must("usepod-response", ANCHOR, "The client receives exactly the bytes of the chunks.")
async def relays_response(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    data = bytes(range(256)) * 64
    jobs = [await coordinator.start(agent) for _ in range(2)]
    for offset in range(0, len(data), 1000):
        for job in jobs:
            await job.write(data[offset : offset + 1000])
    for job in jobs:
        await job.finish()
        status = (await job.client.response()).status
        require(status == 200, f"the client received HTTP {status}")
        await _require_answer(job, data)
    return f"2 clients, {len(data)} bytes each, with chunks in turn"


@CASES.must("usepod-job-of-another", ANCHOR, "Only the agent of a job can end or answer it.")
async def ignores_other_agent(coordinator: CoordinatorUnderTest) -> str:
    agent, other = await coordinator.connect(), await coordinator.connect()
    job = await _begun_job(coordinator, agent)
    await other.send(chunk(job.job_id, 0, b"other"), result(job.job_id, 5), error(job.job_id, 5))
    await coordinator.run_job(other)
    await job.write(ANSWER)
    await job.finish()
    await _require_answer(job, ANSWER)
    return "the messages of another agent were ignored"


@CASES.must("usepod-cancel-first", ANCHOR, "A client that leaves before the first byte, too.")
async def cancels_before_first_byte(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    job = await coordinator.submit(agent)
    await job.client.disconnect()
    await agent.expect(Cancel, job.job_id)
    return "received job_cancel"


@CASES.must("usepod-cancel-late", ANCHOR, "Messages of a cancelled job do no harm.")
async def ignores_cancelled_job(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    for end in (result, error):
        job = await _begun_job(coordinator, agent)
        await job.client.disconnect()
        await agent.expect(Cancel, job.job_id)
        await agent.send(chunk(job.job_id, len(EVENT), ANSWER), end(job.job_id, len(ANSWER)))
        await coordinator.run_job(agent)
    return "chunks, job_done and job_error were ignored, and other jobs run"


@CASES.must("usepod-lost-first", ANCHOR, "Link lost before the first byte: an error, or a new job.")
async def replaces_or_fails_lost_job(coordinator: CoordinatorUnderTest) -> str:
    job = await coordinator.submit(await coordinator.connect())
    await job.agent.cut()
    await asyncio.sleep(SILENCE_S)
    if job.client.answered:
        status = (await job.client.response()).status
        require(status >= 400, f"the client received HTTP {status}")
        return f"HTTP {status}"
    agent = await _enter(coordinator, job.agent.process)
    header = await agent.expect(JobHeader)
    require(header.job_id != job.job_id, "the new job has the id of the lost one")
    again = PlayedJob(agent, header, job.submitted, job.client)
    await again.write(ANSWER)
    await again.finish()
    await _require_answer(again, ANSWER)
    return "a new job for the next agent"


@CASES.must("usepod-lost-late", ANCHOR, "A link lost later: the response looks incomplete.")
async def ends_response_of_lost_link(coordinator: CoordinatorUnderTest) -> str:
    job = await _begun_job(coordinator, await coordinator.connect())
    await job.agent.cut()
    return await _require_incomplete(job)


@CASES.should("usepod-slow-client", ANCHOR, "A client that does not read stops no other one.")
async def separates_clients(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    slow = await coordinator.start(agent)
    for _ in range(UNREAD_BYTES // (64 * KIB)):
        await slow.write(bytes(64 * KIB))
    await coordinator.run_job(agent)
    return f"another job was run beside {UNREAD_BYTES // KIB} KiB that its client did not read"


# --- messages -------------------------------------------------------------------------------------


@CASES.must("usepod-fields-unknown", ANCHOR, "Unknown fields are ignored.")
async def ignores_unknown_fields(coordinator: CoordinatorUnderTest) -> str:
    agent = await _enter(coordinator, x_conformance={"type": ["job_done", None]})
    await agent.send(_IDLE)
    await coordinator.run_job(agent, ANSWER)
    return "in each message up to job_done"


@CASES.must("usepod-types-unknown", ANCHOR, "Messages of unknown types are ignored.")
async def ignores_unknown_types(coordinator: CoordinatorUnderTest) -> str:
    agent = await coordinator.connect()
    job = await _begun_job(coordinator, agent)
    await agent.send_raw('{"type": "x_conformance", "job_id": 7, "models": []}')
    await job.write(ANSWER)
    await job.finish()
    await _require_answer(job, ANSWER)
    return "a running job was finished"


@CASES.must("usepod-malformed", ANCHOR, "After malformed input other connections are served.")
async def survives_malformed(coordinator: CoordinatorUnderTest) -> str:
    other = await coordinator.connect()
    job = await _begun_job(coordinator, other)
    for message in _MALFORMED:
        agent = await coordinator.connect()
        await agent.send_raw(message)
        try:
            await agent.settle()
        except NotHeld:
            require(agent.closed.is_set(), "the connection is open, but answers no ping")
    await job.write(ANSWER)
    await job.finish()
    await _require_answer(job, ANSWER)
    await coordinator.run_job(other)
    return f"after {len(_MALFORMED)} messages a running job was finished, and another one run"


_MALFORMED: Final = (
    "",
    "{",
    '{"type": 7}',
    '{"type": "job_chunk", "job_id": 7, "data": "%"}',
    "[" * 100_000,
    b"\x00",
)
