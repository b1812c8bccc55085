"""An agent with a coordinator that attacks it, and whether it is well afterwards."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from msgspec import Struct

from provider_agent.protocol.frames import JobResult
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.scripted_coordinator import AgentAtCoordinator, ScriptedCoordinator


class HostileHarness(Struct):
    """Everybody, once the agent is connected.

    Attributes:
        coordinator: the attacker; good again when the test says so.
        agent: the attacked.
        backend: its one backend.
        peer: the attacker's end of the connection.
    """

    coordinator: ScriptedCoordinator
    agent: RunningAgent
    backend: ScriptedBackend
    peer: AgentAtCoordinator

    async def close_code(self) -> int | None:
        """What the agent closed the connection with; waits for it."""
        await self.peer.closed.wait()
        return self.peer.socket.close_code

    async def serves_on(self) -> None:
        """The connection stands, and a job runs on it."""
        assert not self.peer.closed.is_set()
        job = new_job()
        await self.peer.give(job)
        (await self.backend.next_run()).answer(b"well")
        assert isinstance(await self.peer.end(job.job_id), JobResult)
        await self.peer.settle()

    async def serves_another(self) -> None:
        """A good coordinator gets the agent's next connection, and a job runs on it."""
        self.peer = await self.agent.connected()
        await self.serves_on()

    async def is_as_new(self) -> None:
        """Nothing is left of what was done to it."""
        await self.peer.settle()
        assert self.agent.service.jobs.in_flight == 0
        assert "channels=0" in repr(self.agent.service)

    def forget(self) -> None:
        """Let go of what only the test's side keeps."""
        for kept in (self.peer.frames, self.peer.messages, self.peer._untaken):
            kept.clear()
        for job_id in self.peer.data.keys() - self.peer.session.streams.keys():
            del self.peer.data[job_id]
        self.backend.runs.clear()
        gc.collect()


@asynccontextmanager
async def hostile_harness() -> AsyncIterator[HostileHarness]:
    """An agent that is connected, with room for two jobs at once."""
    backend = ScriptedBackend(max_concurrent=2)
    async with (
        ScriptedCoordinator() as coordinator,
        RunningAgent(coordinator, backend) as agent,
    ):
        yield HostileHarness(coordinator, agent, backend, await agent.connected())


def names_of_tasks() -> list[str]:
    """Every task but the caller's; of one that was not named, that it is there."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return sorted(task.get_name().rstrip("0123456789") for task in others)


Act = Callable[[HostileHarness], Awaitable[None]]


class Attack(Struct, frozen=True):
    """One thing a coordinator may do to an open connection.

    Attributes:
        name: the row of the table in docs/protocol.md.
        act: does it; waits for what the agent has to answer, if anything.
        close_code: what the agent closes with; None: the connection stands.
    """

    name: str
    act: Act
    close_code: int | None = None
