"""Configuration of every test: leaked tasks fail it, and Hypothesis is reproducible in CI."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, settings
from pytest_asyncio import is_async_test

settings.register_profile(
    "local", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# asyncio's debug mode logs slow callbacks. On a slow machine, these records would be among those
# that a test counts.
logging.getLogger("asyncio").addFilter(lambda record: not str(record.msg).startswith("Executing "))


# A shell without job control starts background processes with SIGINT ignored. If pytest is such a
# process, the commands under test would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
async def _leaked_tasks() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    leaked = asyncio.all_tasks() - before - {asyncio.current_task()}
    for task in leaked:
        task.cancel()
    await asyncio.gather(*leaked, return_exceptions=True)
    if leaked:
        names = ", ".join(sorted(f"{task.get_name()} ({task.get_coro()})" for task in leaked))
        pytest.fail(f"tasks left running: {names}", pytrace=False)


@pytest.fixture(autouse=True)
def no_leaked_tasks(request: pytest.FixtureRequest) -> None:
    """Fail a test that leaves tasks running; checks after the teardown of the other fixtures."""
    if is_async_test(request.node):
        request.getfixturevalue("_leaked_tasks")
