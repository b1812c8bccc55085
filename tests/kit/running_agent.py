"""A whole agent in this process, for tests with a scripted coordinator."""

import asyncio
import time
from collections.abc import Collection, Sequence
from types import TracebackType
from typing import Self

from provider_agent.adapters.base import Backend
from provider_agent.agent.availability.schedule import Schedule
from provider_agent.agent.backends.configured import Backends, SkippedBackend
from provider_agent.agent.config import Config
from provider_agent.agent.identity.key import Identity
from provider_agent.agent.service import Service
from provider_agent.agent.telemetry.traces.settings import TraceSettings
from provider_agent.protocol.ed25519 import PrivateKey
from tests.kit.agent_config import agent_config
from tests.kit.scripted_coordinator import AgentConnection, ScriptedCoordinator
from tests.kit.virtual_time import now


class RunningAgent:
    """An agent that starts on entry, and uses the running loop's clock.

    Args:
        coordinator: dialed if there is no `config`; `connected` returns its connections.
        backends: the agent's backends.
        skipped: configured backends that are not used.
        config: the settings; None: the defaults.
        tokens_per_minute: the operator's limits, by backend id.
        overflow: the ids of the backends that join the offers of others.
        trace_settings: how the agent exports traces; None: not at all.
        schedules: when each backend serves, by backend id.
        jitter: replaces all random numbers; with 0, the agent reconnects at once.
        started_at: the time of day as POSIX time when the agent is created; None: the real time.

    Attributes:
        service: the agent under test.
        task: the task that runs `service.run`.
    """

    def __init__(
        self,
        coordinator: ScriptedCoordinator | None,
        *backends: Backend,
        skipped: Sequence[SkippedBackend] = (),
        config: Config | None = None,
        tokens_per_minute: dict[str, int] | None = None,
        overflow: Collection[str] = (),
        trace_settings: TraceSettings | None = None,
        schedules: dict[str, Schedule] | None = None,
        jitter: float = 0.0,
        started_at: float | None = None,
    ) -> None:
        created_at = now()
        self.service = Service(
            config or agent_config(coordinator.url if coordinator else ""),
            Identity(PrivateKey.generate()),
            Backends(
                list(backends),
                {},
                list(skipped),
                tokens_per_minute or {},
                overflow=set(overflow),
                schedules=schedules or {},
            ),
            clock=now,
            wall_clock=(
                time.time if started_at is None else lambda: started_at + now() - created_at
            ),
            uniform=lambda: jitter,
            trace_settings=trace_settings,
        )
        self._coordinator = coordinator
        self._task: asyncio.Task[int] | None = None

    @property
    def task(self) -> asyncio.Task[int]:
        assert self._task is not None
        return self._task

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self.service.run(), name="agent")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def connected(self) -> AgentConnection:
        """Wait for the next connection and its `Welcome`; return the coordinator's end of it."""
        assert self._coordinator is not None
        connection = await self._coordinator.next_connection()
        await self.service.uplink.connected.wait()
        return connection
