"""Why a request has no answer: the text for the client, and the log line. Virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from msgspec.structs import replace

from provider_agent.coordinator.agents.fleet import MODEL_GRACE_S
from tests.kit.coordinator_harness import (
    NO_HEARTBEATS,
    CoordinatorHarness,
    coordinator_harness,
    wait_until,
)
from tests.kit.scripted_agent import offer
from tests.kit.virtual_time import in_virtual_time
from tests.unit.coordinator.http.test_request_record import finished

SETTINGS = replace(NO_HEARTBEATS, drain_s=5.0, max_queued=1, max_price=1.0, resume_ms=0)
PRICED = {"input_price_per_1m": 1, "output_price_per_1m": 1}


async def fill(harness: CoordinatorHarness) -> None:
    """Use the agent's only slot."""
    await harness.agent.advertise(offer(max_concurrent=1, **PRICED))
