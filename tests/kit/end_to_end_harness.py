"""The reference coordinator and an agent in one process, connected over loopback."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from msgspec import Struct

from provider_agent.agent.backends.configured import make_backends
from provider_agent.agent.config import BackendConfig, LimitsConfig, PricingConfig
from provider_agent.agent.identity.key import load_or_create
from provider_agent.agent.service import Service
from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from tests.kit.agent_config import agent_config

READY_WITHIN_S = 20.0


class EndToEndHarness(Struct):
    """A running coordinator with one connected agent."""

    coordinator: Coordinator
    service: Service
    running: asyncio.Task[int]

    @property
    def url(self) -> str:
        """Where clients send requests."""
        return self.coordinator.http_url


@asynccontextmanager
async def end_to_end_harness(
    folder: Path,
    *backends: BackendConfig,
    settings: CoordinatorSettings | None = None,
    max_concurrent: int = 8,
    environ: dict[str, str] | None = None,
    pricing: PricingConfig | None = None,
) -> AsyncIterator[EndToEndHarness]:
    """Run a coordinator and an agent with these backends; yield once the agent offers a model."""
    async with Coordinator(settings or CoordinatorSettings(port=0)) as coordinator:
        config = agent_config(
            coordinator.connect_url,
            key_path=folder / "identity.key",
            backends=backends,
            pricing=pricing or PricingConfig(),
            limits=LimitsConfig(drain_timeout_s=5.0, max_concurrent=max_concurrent),
        )
        identity = load_or_create(config.identity.key_path)
        service = Service(config, identity, make_backends(backends, environ or {}))
        running = asyncio.create_task(service.run(), name="agent under test")
        try:
            await wait_for_models(coordinator)
            yield EndToEndHarness(coordinator, service, running)
        finally:
            service.stop()
            await running


async def wait_for_models(coordinator: Coordinator, *model_ids: str) -> None:
    """Wait until an agent offers these models; without ids, until one offers any."""

    def is_offered() -> bool:
        offers = [agent.models for agent in coordinator.agents() if agent.models]
        return any(set(model_ids) <= set(models) for models in offers)

    async with asyncio.timeout(READY_WITHIN_S):
        while not is_offered():  # noqa: ASYNC110
            # The coordinator has no event for new models, so poll.
            await asyncio.sleep(0.005)
