"""An agent with a hostile coordinator, and assertions that it still works afterwards."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from msgspec import Struct

from provider_agent.protocol.frames import JobResult
from tests.kit.jobs import new_job
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.scripted_coordinator import AgentConnection, ScriptedCoordinator


class HostileHarness(Struct):
    """A connected agent and its coordinator.

    Attributes:
        coordinator: the hostile coordinator.
        agent: the agent under test.
        backend: the agent's only backend.
        peer: the coordinator's end of the current connection.
    """

    coordinator: ScriptedCoordinator
    agent: RunningAgent
    backend: ScriptedBackend
    peer: AgentConnection

    async def close_code(self) -> int | None:
        """Wait until the connection has ended; return the agent's close code."""
        await self.peer.closed.wait()
        return self.peer.socket.close_code

    async def assert_serves(self) -> None:
        """Assert that the connection is open and a job runs on it."""
        assert not self.peer.closed.is_set()
        job = new_job()
        await self.peer.send_jobs(job)
        (await self.backend.next_run()).answer(b"answer")
        assert isinstance(await self.peer.end(job.job_id), JobResult)
        await self.peer.settle()

    async def assert_serves_after_reconnect(self) -> None:
        """Assert that the agent reconnects and a job runs on the new connection."""
        self.peer = await self.agent.connected()
        await self.assert_serves()

    async def assert_no_jobs_left(self) -> None:
        """Assert that the agent holds no job."""
        await self.peer.settle()
        assert self.agent.service.jobs.in_flight == 0
        assert "channels=0" in repr(self.agent.service)

    def clear_history(self) -> None:
        """Clear the records of the test kit, so that they do not count as the agent's memory."""
        for history in (self.peer.frames, self.peer.messages, self.peer._unreturned):
            history.clear()
        for job_id in self.peer.data.keys() - self.peer.protocol.streams.keys():
            del self.peer.data[job_id]
        self.backend.runs.clear()
        gc.collect()


@asynccontextmanager
async def hostile_harness() -> AsyncIterator[HostileHarness]:
    """A connected agent whose backend runs two jobs at once."""
    backend = ScriptedBackend(max_concurrent=2)
    async with (
        ScriptedCoordinator() as coordinator,
        RunningAgent(coordinator, backend) as agent,
    ):
        yield HostileHarness(coordinator, agent, backend, await agent.connected())


def task_names() -> list[str]:
    """Return the sorted names of all other tasks, without the numbers in names like `Task-7`."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return sorted(task.get_name().rstrip("0123456789") for task in others)


AttackAction = Callable[[HostileHarness], Awaitable[None]]


class Attack(Struct, frozen=True):
    """One attack on an open connection.

    Attributes:
        name: the first cell of its row in docs/protocol.md.
        perform: performs the attack, and checks the agent's answers, if there are any.
        close_code: the agent's close code; None: the connection stays open.
    """

    name: str
    perform: AttackAction
    close_code: int | None = None
