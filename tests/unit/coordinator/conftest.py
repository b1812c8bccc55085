"""A running coordinator on a free port, and an HTTP client for it."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from provider_agent.coordinator.server import Coordinator
from provider_agent.coordinator.settings import CoordinatorSettings
from tests.kit.coordinator_harness import JSON_HEADERS


@pytest.fixture
def settings() -> CoordinatorSettings:
    return CoordinatorSettings(port=0, drain_s=0, queue_s=0)


@pytest.fixture
async def coordinator(settings: CoordinatorSettings) -> AsyncIterator[Coordinator]:
    async with Coordinator(settings) as running:
        yield running


@pytest.fixture
async def http(coordinator: Coordinator) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(coordinator.http_url, headers=JSON_HEADERS) as session:
        yield session
