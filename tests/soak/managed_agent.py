"""An agent that the soak test stops, starts and reloads, and the agent's two proxies."""

import asyncio
import random
from pathlib import Path

from provider_agent.agent.backends.configured import make_backends
from provider_agent.agent.config import (
    BackendConfig,
    Config,
    CoordinatorConfig,
    DiscoveryConfig,
    LimitsConfig,
    TimeoutSettings,
)
from provider_agent.agent.control.commands import Command
from provider_agent.agent.identity.key import Identity
from provider_agent.agent.service import EXIT_FORCED, EXIT_OK, EXIT_UNDELIVERED, Service
from provider_agent.protocol.ed25519 import PrivateKey
from provider_agent.protocol.formats import WireFormat
from provider_agent.protocol.limits import CONNECT_PATH
from tests.kit.agent_config import agent_config
from tests.kit.fault_proxy import FaultProxy
from tests.soak.counts import Counts

PING_EVERY_S = 2.0
"""Instead of the real 20 s, so that a lost link is detected while its session can be resumed."""

_JITTER = 0.25
"""Factor that shortens every random wait. Without it, an agent would wait up to a minute after many
faults."""


class ManagedAgent:
    """One agent and its proxies. The agent keeps its key when it restarts.

    Attributes:
        link: the proxy to the coordinator.
        backend_proxy: the proxy to the server.
        status_address: `host:port` of its status server.
        service: the running agent, or the last one that ran.
    """

    def __init__(
        self,
        link: FaultProxy,
        backend_proxy: FaultProxy,
        rng: random.Random,
        counts: Counts,
        *,
        status_port: int,
        folder: Path,
    ) -> None:
        self.link = link
        self.backend_proxy = backend_proxy
        self._rng = rng
        self._counts = counts
        self._folder = folder
        self.status_address = f"127.0.0.1:{status_port}"
        self._identity = Identity(PrivateKey.generate())
        self.service: Service
        self._task: asyncio.Task[int] | None = None
        self._stopping = False
        self._restarting = asyncio.Lock()

    def start(self) -> None:
        """Start the agent."""
        self._stopping = False
        config = self._config()
        self.service = Service(
            config,
            self._identity,
            make_backends(config.backends, {}),
            uniform=lambda: _JITTER * self._rng.random(),
        )
        _count_resumed(self.service, self._counts)
        self._task = asyncio.create_task(self.service.run(), name="agent")

    async def stop(self, *, force: bool = False) -> None:
        """Stop the agent as SIGTERM does; `force`: as a second SIGTERM does."""
        self._stopping = True
        self.service.stop()
        if force:
            await asyncio.sleep(0.2)
            self.service.stop()
        assert self._task is not None
        code = await self._task
        if code not in (EXIT_OK, EXIT_UNDELIVERED, EXIT_FORCED):
            self._counts.add_defect(f"an agent exited with {code}: {self.service!r}")

    async def restart(self, down_s: float, *, force: bool) -> None:
        """Stop the agent, and start it again after `down_s`."""
        async with self._restarting:
            await self.stop(force=force)
            await asyncio.sleep(down_s)
            self.start()

    def reload(self) -> None:
        """Reload as SIGHUP does, with newly chosen limits and timeouts."""
        config = self._config()
        backends = make_backends(
            config.backends, {}, before=self.service.backends, busy_ids=self.service.busy_ids
        )
        self.service.reload(config, backends)

    async def pause(self, backend: str | None, seconds: float) -> None:
        """Pause the agent or a backend as `provider-agent pause` does, and resume it later."""
        commands = self.service._control.commands
        await commands.carry_out(Command("pause", backend))
        await asyncio.sleep(seconds)
        # Maybe in a restarted agent, which has kept the pause.
        async with self._restarting:
            reply = await self.service._control.commands.carry_out(Command("resume", backend))
        if not reply.ok:
            self._counts.add_defect(f"an agent did not resume: {reply.message}")

    @property
    def exited(self) -> bool:
        """Whether the agent exited although `stop` was not called."""
        return self._task is not None and self._task.done() and not self._stopping

    def _config(self) -> Config:
        silence_s = self._rng.choice([3.0, 4.0])
        timeouts = TimeoutSettings(connect_s=2.0, first_byte_s=4.0, silence_s=silence_s)
        server = BackendConfig(
            kind="openai_compatible",
            url=f"http://{self.backend_proxy.authority}",
            formats=(WireFormat.OPENAI, WireFormat.ANTHROPIC),
            max_concurrent=64,
            timeouts=timeouts,
        )
        url = f"ws://{self.link.authority}{CONNECT_PATH}"
        return agent_config(
            url,
            coordinator=CoordinatorConfig(url=url),
            backends=(server, BackendConfig(kind="echo")),
            limits=LimitsConfig(
                max_concurrent=self._rng.choice([24, 32]),
                drain_timeout_s=2.0,
                # Three ping intervals, as by default: a stalled link is detected before this time.
                slow_consumer_s=3 * PING_EVERY_S,
            ),
            discovery=DiscoveryConfig(interval_s=2.0),
            key_path=self._folder / "key",
            prometheus_addr=self.status_address,
            ledger_path=self._folder / "ledger.jsonl",
        )


def _count_resumed(service: Service, counts: Counts) -> None:
    record = service.metrics.resumed

    def count_and_record(jobs: int) -> None:
        counts.resumed += bool(jobs)
        record(jobs)

    service.metrics.resumed = count_and_record  # type: ignore[method-assign]
