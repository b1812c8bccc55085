"""Cases about flow control: the window and acknowledgements.

The cases of `CLOSING` end their connection.
"""

from typing import Final

from provider_agent.conformance.agent_under_test import AgentUnderTest
from provider_agent.conformance.case import CaseList, require
from provider_agent.conformance.coordinator_peer import SentJob, new_job
from provider_agent.conformance.peer import SILENCE_S
from provider_agent.protocol.frames import Ack, Chunk, Heartbeat

CASES = CaseList[AgentUnderTest]()
CLOSING = CaseList[AgentUnderTest]()

_FLOW: Final = "flow-control"
_UNKNOWN_JOB: Final = b"\xee" * 16


@CASES.must("window", _FLOW, "No more than a window of a job is sent and unacknowledged.")
async def keeps_window(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await agent.long_job(peer)
    await peer.settle()
    # Time in which an agent that ignores the window would send more.
    await peer.expect(Heartbeat, within_s=4 * SILENCE_S)
    size = len(peer.data(job.job_id))
    require(size <= peer.window, f"{size} bytes of a window of {peer.window}")
    return f"{size} bytes of a window of {peer.window}"


@CASES.must("window-continues", _FLOW, "After an `Ack` the agent sends more bytes.")
async def continues_after_ack(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await agent.long_job(peer)
    await peer.send(Ack(job.job_id, peer.window))
    await peer.expect_bytes(job, peer.window + 1)
    end = await peer.read_to_end(job)
    require(end.total_bytes == len(peer.data(job.job_id)), "total_bytes differs from what arrived")
    return f"{end.total_bytes} bytes in all"


@CASES.must("window-per-job", _FLOW, "A full window stops no other job, and no heartbeat.")
async def separates_windows(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    await agent.long_job(peer)
    await peer.run_job()
    await peer.expect(Heartbeat, within_s=4 * SILENCE_S)
    return "another job was run meanwhile"


@CASES.must("ack-lower", _FLOW, "An `Ack` below an earlier one has no effect.")
async def ignores_lower_ack(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await agent.long_job(peer)
    await peer.send(*(Ack(job.job_id, offset) for offset in (peer.window, 100, 0)))
    await peer.expect_bytes(job, peer.window + 1)
    await peer.read_to_end(job)
    return "the job was finished"


@CASES.must("ack-unknown", _FLOW, "An `Ack` of an unknown job is ignored.")
async def ignores_unknown_ack(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    await peer.send(Ack(_UNKNOWN_JOB, 2**53 - 1), Ack(_UNKNOWN_JOB, 5, final=True))
    await peer.run_job()
    return "a job was run afterwards"


@CASES.must("ack-repeated", _FLOW, "A final `Ack` that arrives again is ignored.")
async def ignores_repeated_final_ack(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await peer.send_job(new_job(peer.model_id))
    end = await peer.read_to_end(job)
    await peer.send(Ack(job.job_id, end.total_bytes, final=True))
    await peer.run_job()
    return "a job was run afterwards"


@CLOSING.must("ack-beyond", _FLOW, "An `Ack` beyond what was sent closes with 1002.")
async def refuses_ack_beyond(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await agent.long_job(peer)
    await peer.send(Ack(job.job_id, peer.window + 1))
    return await peer.expect_close(1002)


@CLOSING.must("ack-final-early", _FLOW, "A final `Ack` before the end closes with 1002.")
async def refuses_early_final_ack(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job = await agent.long_job(peer)
    await peer.send(Ack(job.job_id, peer.window, final=True))
    return await peer.expect_close(1002)


@CLOSING.must(
    "ack-final-offset",
    _FLOW,
    "A final `Ack` with another offset than `total_bytes` closes with 1002.",
)
async def refuses_final_ack_at_other_offset(agent: AgentUnderTest) -> str:
    peer = await agent.connected()
    job: SentJob = await peer.send_job(new_job(peer.model_id))
    end = await peer.expect_end(job, acknowledge=False)
    require(len(peer.received_of(Chunk, job.job_id)) > 0, "an empty response")
    await peer.send(Ack(job.job_id, end.total_bytes - 1, final=True))
    return await peer.expect_close(1002)
