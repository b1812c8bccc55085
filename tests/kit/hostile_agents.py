"""Attacks of a hostile agent that is admitted and runs a job."""

from collections.abc import Awaitable, Callable
from typing import Final

from msgspec import Struct

from provider_agent.protocol.frames import (
    AgentFrame,
    AgentLimits,
    Capabilities,
    Chunk,
    Heartbeat,
    Hello,
    JobError,
    JobResult,
    JobStarted,
    Usage,
)
from provider_agent.protocol.limits import MAX_MODELS, WINDOW_BYTES
from tests.kit.scripted_agent import ScriptedAgent, offer
from tests.kit.scripted_job import ScriptedJob

UNKNOWN_JOB: Final = b"\xee" * 16

AgentAction = Callable[[ScriptedAgent, ScriptedJob], Awaitable[None]]


class AgentAttack(Struct, frozen=True):
    """One attack on a coordinator.

    Attributes:
        name: the first cell of its row in docs/protocol.md.
        perform: performs the attack, given the agent and its running job.
        close_code: the coordinator's close code; None if the connection stays open and the job can
            finish.
    """

    name: str
    perform: AgentAction
    close_code: int | None = None


def _started(job_id: bytes) -> JobStarted:
    return JobStarted(job_id, 200, "text/event-stream", "b")


def _result(job_id: bytes, total_bytes: int) -> JobResult:
    return JobResult(job_id, total_bytes, Usage(None, None), "b", 1, 1)


def send_for_running_job(*builders: Callable[[bytes], AgentFrame]) -> AgentAction:
    """Send frames with the id of the running job, for which no `JobStarted` was sent before."""

    async def perform(agent: ScriptedAgent, job: ScriptedJob) -> None:
        await agent.send(*(build(job.job.job_id) for build in builders))

    return perform


def send(*frames: AgentFrame) -> AgentAction:
    async def perform(agent: ScriptedAgent, job: ScriptedJob) -> None:
        await agent.send(*frames)

    return perform


async def end_unknown_jobs(agent: ScriptedAgent, job: ScriptedJob) -> None:
    ids = [number.to_bytes(16, "big") for number in range(1000)]
    await agent.send(*(_result(job_id, 2**53 - 1) for job_id in ids))
    for _ in range(3):  # the coordinator may send the acknowledgements after the first pong
        await agent.settle()
    assert {ack.job_id for ack in agent.acks if ack.final} >= set(ids), (
        "some ends are not acknowledged, so an agent would keep them"
    )


async def offer_thousands_of_models(agent: ScriptedAgent, job: ScriptedJob) -> None:
    models = [offer(f"model-{number}") for number in range(MAX_MODELS - 1)]
    frame = Capabilities(2, [offer(), *models], AgentLimits(2**53 - 1))
    await agent.send(frame)
    await agent.settle()


async def offer_too_many_models(agent: ScriptedAgent, job: ScriptedJob) -> None:
    await agent.send(Capabilities(2, [offer()] * (MAX_MODELS + 1), AgentLimits(1)))


async def flood_with_capabilities(agent: ScriptedAgent, job: ScriptedJob) -> None:
    for revision in range(300):
        models = [offer(f"model-{revision}-{number}") for number in range(20)]
        await agent.send(Capabilities(revision, [offer(), *models], AgentLimits(8)))
    await agent.settle()


async def flood_with_heartbeats(agent: ScriptedAgent, job: ScriptedJob) -> None:
    heartbeat = Heartbeat(2**53 - 1, 2**53 - 1, 2**53 - 1, float("nan"), float("inf"), -1.0, 1e300)
    for _ in range(5):
        await agent.send(*[heartbeat] * 2000)
    await agent.settle()


async def flood_with_hello(agent: ScriptedAgent, job: ScriptedJob) -> None:
    await agent.send(*[Hello("v", agent.public_key, bytes(64))] * 1000)


async def exceed_window(agent: ScriptedAgent, job: ScriptedJob) -> None:
    job_id = job.job.job_id
    # The scripted job's stream does not send these bytes, and would reject their acknowledgements.
    del agent.jobs[job_id]
    await agent.send(_started(job_id))
    size = WINDOW_BYTES // 4
    for offset in range(0, WINDOW_BYTES, size):
        await agent.send(Chunk(job_id, offset, bytes(size)))
    # The client may have read some of these bytes, which extends the window. The next chunk is
    # larger than a whole window, so it exceeds the window in any case.
    await agent.send(Chunk(job_id, WINDOW_BYTES, bytes(WINDOW_BYTES + 1)))


AGENT_ATTACKS: Final = [
    AgentAttack(
        "`Chunk` before `JobStarted`",
        send_for_running_job(lambda job_id: Chunk(job_id, 0, b"x")),
        1002,
    ),
    AgentAttack("`JobStarted` twice", send_for_running_job(_started, _started), 1002),
    AgentAttack(
        "a gap in a response",
        send_for_running_job(_started, lambda job_id: Chunk(job_id, 1, b"x")),
        1002,
    ),
    AgentAttack(
        "a `Chunk` without data",
        send_for_running_job(_started, lambda job_id: Chunk(job_id, 0, b"")),
        1002,
    ),
    AgentAttack("more data than the window allows", exceed_window, 1002),
    AgentAttack(
        "an end with a wrong `total_bytes`",
        send_for_running_job(lambda job_id: _result(job_id, 1)),
        1002,
    ),
    AgentAttack(
        "`JobStarted` and `Chunk` of an unknown job",
        send(_started(UNKNOWN_JOB), Chunk(UNKNOWN_JOB, 7, b"x"), Chunk(UNKNOWN_JOB, 0, b"")),
    ),
    AgentAttack("a thousand ends of unknown jobs", end_unknown_jobs),
    AgentAttack(
        "an end twice",
        send(JobError(UNKNOWN_JOB, 0, "internal", "\x1b[2J"), JobError(UNKNOWN_JOB, 9, "?", "")),
    ),
    AgentAttack("4096 models", offer_thousands_of_models),
    AgentAttack("more than 4096 models", offer_too_many_models, 1002),
    AgentAttack("a flood of `Capabilities`", flood_with_capabilities),
    AgentAttack("a flood of `Heartbeat` with impossible numbers", flood_with_heartbeats),
    AgentAttack("`Hello` again, and a flood of it", flood_with_hello, 1002),
]
