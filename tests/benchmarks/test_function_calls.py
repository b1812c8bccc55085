"""Bounds for the function calls of the agent per read, per event and per job.

The number of calls is the same on every machine, and almost the same in every version of Python.
The bounds allow 8 % more than in November 2026. Lower them after an improvement. If a feature needs
more calls, raise them, and say in the commit why the feature is worth it.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator

import pytest
from msgspec import Struct

from provider_agent.adapters.responses.relay import Relay
from provider_agent.event_log import EventLogger
from tests.benchmarks.counted_relay import counted_relay

MARGIN = 1.08

MAX_PER_READ = 118 * MARGIN
"""Most of them by asyncio and websockets, for the turns of the event loop and one message."""

MAX_PER_FURTHER_EVENT = 1.0
"""0.6: events of one read share almost everything. One more call per event exceeds the bound."""

MAX_PER_JOB = 1140 * MARGIN
"""Of a job with one event."""

MAX_READ_TO_OBVIOUS = 0.9 * MARGIN
"""Although the obvious relay has no window, validation, timeouts or metrics."""

MAX_FURTHER_EVENT_TO_OBVIOUS = 0.1
"""0.04: aiohttp calls about 17 functions for each HTTP chunk."""

READS = 100
JOBS = 30
EVENTS = 20


class Calls(Struct):
    """Function calls.

    Attributes:
        per_read: for each read with one event.
        per_further_event: for each further event in the same read.
        per_job: for each job of one event.
    """

    per_read: float
    per_further_event: float
    per_job: float


async def _count(name: str) -> Calls:
    async with counted_relay(name) as relay:
        await relay.calls_per_job(JOBS)  # the first jobs fill caches
        one = await relay.calls_per_read(READS, 1)
        many = await relay.calls_per_read(READS, EVENTS)
        return Calls(one, (many - one) / (EVENTS - 1), await relay.calls_per_job(JOBS))


@pytest.fixture(scope="module", autouse=True)
def _log_level_of_operators() -> Iterator[None]:
    """Log as an agent with default settings does, but into nothing."""
    logger = logging.getLogger("provider_agent")
    level, handler = logger.level, logging.NullHandler()
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False
    yield
    logger.propagate = True
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture(scope="module")
def agent() -> Calls:
    return asyncio.run(_count("agent"))


@pytest.fixture(scope="module")
def obvious() -> Calls:
    return asyncio.run(_count("obvious"))


def test_a_read_is_relayed_with_few_calls(agent: Calls) -> None:
    assert 0 < agent.per_read <= MAX_PER_READ


def test_events_of_one_read_share_their_calls(agent: Calls) -> None:
    assert 0 < agent.per_further_event <= MAX_PER_FURTHER_EVENT


def test_a_job_is_relayed_with_few_calls(agent: Calls) -> None:
    assert 0 < agent.per_job <= MAX_PER_JOB


def test_a_read_needs_no_more_calls_than_in_the_obvious_relay(agent: Calls, obvious: Calls) -> None:
    assert agent.per_read <= obvious.per_read * MAX_READ_TO_OBVIOUS


def test_further_events_need_far_fewer_calls_than_in_the_obvious_relay(
    agent: Calls, obvious: Calls
) -> None:
    limit = obvious.per_further_event * MAX_FURTHER_EVENT_TO_OBVIOUS
    assert agent.per_further_event <= limit


async def _nothing() -> None:
    pass


log = EventLogger("provider_agent.test")


@pytest.mark.parametrize(
    "addition",
    [lambda: asyncio.ensure_future(_nothing()), lambda: log.info("event relayed", size=250)],
    ids=["task", "log line"],
)
def test_one_more_task_or_log_line_per_read_exceeds_the_margin(
    addition: Callable[[], object], agent: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = Relay.data_received

    def slower(self: Relay, data: bytes) -> None:
        addition()
        relay(self, data)

    monkeypatch.setattr(Relay, "data_received", slower)
    calls = asyncio.run(_count("agent"))
    assert calls.per_read > agent.per_read * MARGIN
