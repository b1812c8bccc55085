"""An agent for tests with a coordinator of the Use Pod dialect."""

import asyncio
import gc
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct

from provider_agent.agent.config import Config, CoordinatorConfig, LimitsConfig, PricingConfig
from provider_agent.protocol.limits import KIB, MIB
from tests.kit.agent_config import agent_config
from tests.kit.running_agent import RunningAgent
from tests.kit.scripted_backend import ScriptedBackend, ScriptedRun, model
from tests.kit.usepod_coordinator import UsepodConnection, UsepodCoordinator

STARTED_AT = 1_780_000_000.0
"""The time of day when the agent of the harness starts: 2026-05-28T20:26:40Z."""

PRICING = PricingConfig(default_input_per_1m=500_000, default_output_per_1m=750_000)


def new_id() -> str:
    """Return a job id as the marketplace makes them."""
    return str(uuid.uuid4())


async def send_until_paused(run: ScriptedRun) -> int:
    """Send zeros as the response of a job until its backend is paused; return their number."""
    sent = 0
    while not run.paused:
        assert sent < 64 * MIB, "the backend is never paused"
        run.send(bytes(64 * KIB))
        sent += 64 * KIB
        await asyncio.sleep(0)
    return sent


def usepod_config(url: str, pricing: PricingConfig = PRICING, max_concurrent: int = 2) -> Config:
    """Return the settings of an agent for a coordinator of the dialect at `url`."""
    return agent_config(
        "",
        coordinator=CoordinatorConfig(url=url, dialect="usepod", enrollment_code="POD-1"),
        pricing=pricing,
        limits=LimitsConfig(max_concurrent=max_concurrent, max_tokens_per_minute=200_000),
    )


class UsepodHarness(Struct):
    """A connected agent with a scripted backend that serves the model `m`.

    Attributes:
        coordinator: the agent's coordinator.
        agent: the agent under test.
        backend: the agent's only backend.
        connection: the coordinator's end of the current connection.
    """

    coordinator: UsepodCoordinator
    agent: RunningAgent
    backend: ScriptedBackend
    connection: UsepodConnection

    async def start_job(self, job_id: str, **fields: object) -> ScriptedRun:
        """Send a job for `m`; return its run."""
        await self.connection.send_job(job_id, "m", **fields)
        return await self.backend.next_run()

    async def reconnected(self) -> None:
        """Wait for the next connection and its offers."""
        self.connection = await self.coordinator.next_connection()
        await self.connection.next("capabilities")

    async def assert_serves(self) -> None:
        """Assert that a job runs on the current connection."""
        job_id = new_id()
        (await self.start_job(job_id)).answer(b"data: {}\n\n")
        assert (await self.connection.end(job_id))["type"] == "job_done"

    async def assert_no_jobs_left(self) -> None:
        """Assert that the agent holds no job."""
        await self.connection.settle()
        assert self.agent.service.jobs.in_flight == 0
        assert "channels=0" in repr(self.agent.service)

    def clear_history(self) -> None:
        """Clear the records of the test kit, so that they do not count as the agent's memory."""
        self.connection.clear()
        self.backend.runs.clear()
        gc.collect()


@asynccontextmanager
async def usepod_harness(backend: ScriptedBackend | None = None) -> AsyncIterator[UsepodHarness]:
    """Run an agent with `backend`, by default a new one, until the block ends."""
    backend = backend or ScriptedBackend("scripted:http://b", model("m"))
    async with UsepodCoordinator() as coordinator:
        config = usepod_config(coordinator.url)
        async with RunningAgent(None, backend, config=config, started_at=STARTED_AT) as agent:
            connection = await coordinator.next_connection()
            await connection.next("capabilities")
            yield UsepodHarness(coordinator, agent, backend, connection)
