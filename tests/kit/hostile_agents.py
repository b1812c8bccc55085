"""What a hostile agent does to a coordinator, once it is welcome and runs a job."""

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
)
from provider_agent.protocol.limits import (
    MAX_MODELS,
    MIN_MESSAGE_TO_COORDINATOR_BYTES,
    WINDOW_BYTES,
)
from tests.kit.scripted_agent import ScriptedAgent, ScriptedJob, offer

STRANGER: Final = b"\xee" * 16

Act = Callable[[ScriptedAgent, ScriptedJob], Awaitable[None]]


class AgentAttack(Struct, frozen=True):
    """One thing an agent may do.

    Attributes:
        name: the row of the table in docs/protocol.md.
        act: does it.
        close_code: what the coordinator closes with; None: the connection and the job stand.
    """

    name: str
    act: Act
    close_code: int | None = None


def _started(job_id: bytes) -> JobStarted:
    return JobStarted(job_id, 200, "text/event-stream", "b")


def _result(job_id: bytes, total_bytes: int) -> JobResult:
    return JobResult(job_id, total_bytes, None, None, 1, 1)


def about_its_job(*make: Callable[[bytes], AgentFrame]) -> Act:
    """Frames about the job that it was given; the first is what `ScriptedJob` has not sent."""

    async def act(agent: ScriptedAgent, job: ScriptedJob) -> None:
        await agent.send(*(one(job.job.job_id) for one in make))

    return act


def about_a_stranger(*frames: AgentFrame) -> Act:
    async def act(agent: ScriptedAgent, job: ScriptedJob) -> None:
        await agent.send(*frames)

    return act


async def ends_of_unknown_jobs(agent: ScriptedAgent, job: ScriptedJob) -> None:
    ids = [number.to_bytes(16, "big") for number in range(1000)]
    await agent.send(*(_result(job_id, 2**53) for job_id in ids))
    for _ in range(3):  # taken, answered, and the answer taken
        await agent.settle()
    assert {ack.job_id for ack in agent.acks if ack.final} >= set(ids), "or it would keep them"


async def thousands_of_models(agent: ScriptedAgent, job: ScriptedJob) -> None:
    models = [offer(f"model-{number}") for number in range(MAX_MODELS - 1)]
    frame = Capabilities(2, [offer(), *models], AgentLimits(2**53))
    await agent.send(frame)
    await agent.settle()


async def more_models_than_allowed(agent: ScriptedAgent, job: ScriptedJob) -> None:
    await agent.send(Capabilities(2, [offer()] * (MAX_MODELS + 1), AgentLimits(1)))


async def flood_of_capabilities(agent: ScriptedAgent, job: ScriptedJob) -> None:
    for revision in range(300):
        models = [offer(f"model-{revision}-{number}") for number in range(20)]
        await agent.send(Capabilities(revision, [offer(), *models], AgentLimits(8)))
    await agent.settle()


async def flood_of_heartbeats(agent: ScriptedAgent, job: ScriptedJob) -> None:
    beat = Heartbeat(2**53, 2**53, 2**53, float("nan"), float("inf"), -1.0, 1e300)
    for _ in range(5):
        await agent.send(*[beat] * 2000)
    await agent.settle()


async def hello_again(agent: ScriptedAgent, job: ScriptedJob) -> None:
    await agent.send(*[Hello("v", agent.public_key, bytes(64))] * 1000)


async def too_much(agent: ScriptedAgent, job: ScriptedJob) -> None:
    job_id = job.job.job_id
    del agent.jobs[job_id]  # whose own stream knows nothing of this
    await agent.send(_started(job_id))
    size = WINDOW_BYTES // 4
    for offset in range(0, WINDOW_BYTES, size):
        await agent.send(Chunk(job_id, offset, bytes(size)))
    # The window may have grown by what the client took; the second one is too much in any case.
    big = MIN_MESSAGE_TO_COORDINATOR_BYTES + 1
    await agent.send(Chunk(job_id, WINDOW_BYTES, bytes(big)))


AGENT_ATTACKS: Final = [
    AgentAttack(
        "`Chunk` before `JobStarted`", about_its_job(lambda job_id: Chunk(job_id, 0, b"x")), 1002
    ),
    AgentAttack("`JobStarted` twice", about_its_job(_started, _started), 1002),
    AgentAttack(
        "a gap in a response", about_its_job(_started, lambda job_id: Chunk(job_id, 1, b"x")), 1002
    ),
    AgentAttack(
        "a `Chunk` without data",
        about_its_job(_started, lambda job_id: Chunk(job_id, 0, b"")),
        1002,
    ),
    AgentAttack("more data than the window allows", too_much, 1002),
    AgentAttack(
        "an end with a wrong `total_bytes`", about_its_job(lambda job_id: _result(job_id, 1)), 1002
    ),
    AgentAttack(
        "`JobStarted` and `Chunk` of an unknown job",
        about_a_stranger(_started(STRANGER), Chunk(STRANGER, 7, b"x"), Chunk(STRANGER, 0, b"")),
    ),
    AgentAttack("a thousand ends of unknown jobs", ends_of_unknown_jobs),
    AgentAttack(
        "an end twice",
        about_a_stranger(
            JobError(STRANGER, 0, "internal", "\x1b[2J"), JobError(STRANGER, 9, "?", "")
        ),
    ),
    AgentAttack("4096 models", thousands_of_models),
    AgentAttack("more than 4096 models", more_models_than_allowed, 1002),
    AgentAttack("a flood of `Capabilities`", flood_of_capabilities),
    AgentAttack("a flood of `Heartbeat` with impossible numbers", flood_of_heartbeats),
    AgentAttack("`Hello` again, and a flood of it", hello_again, 1002),
]
