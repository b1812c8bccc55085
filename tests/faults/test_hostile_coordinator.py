"""How the agent handles a coordinator that violates the protocol or sends floods of frames."""

import contextlib
import logging
import tracemalloc
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed

from provider_agent.conformance.hostile_messages import HOSTILE_MESSAGES, HostileMessage
from tests.kit.hostile_harness import Attack, AttackAction, hostile_harness, task_names
from tests.kit.hostile_jobs import ATTACKS, FLOODS
from tests.kit.virtual_time import in_virtual_time

KIB = 1024


@pytest.mark.parametrize("hostile", HOSTILE_MESSAGES, ids=lambda hostile: hostile.name)
@in_virtual_time
async def test_agent_reacts_to_hostile_message_as_documented(hostile: HostileMessage) -> None:
    async with hostile_harness() as harness:
        await harness.assert_serves()
        tasks = task_names()
        with contextlib.suppress(ConnectionClosed):  # the agent may close before it has read all
            await harness.peer.send_raw(hostile.to_agent)
        if hostile.close_code is None:
            await harness.assert_serves()
        else:
            assert await harness.close_code() == hostile.close_code
            await harness.assert_serves_after_reconnect()
        await harness.assert_no_jobs_left()
        assert task_names() == tasks


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
@in_virtual_time
async def test_agent_reacts_to_attack_as_documented(attack: Attack) -> None:
    async with hostile_harness() as harness:
        await harness.assert_serves()
        harness.clear_history()
        tasks = task_names()
        await attack.perform(harness)
        if attack.close_code is None:
            await harness.assert_serves()
        else:
            assert await harness.close_code() == attack.close_code
            # Discard the runs of the attack; otherwise `next_run` would return one of them.
            while not harness.backend._new_runs.empty():
                harness.backend._new_runs.get_nowait()
            await harness.assert_serves_after_reconnect()
        await harness.assert_no_jobs_left()
        assert task_names() == tasks


@pytest.fixture
def no_log_records() -> Iterator[None]:
    """Disable logging, because pytest keeps every log record in memory."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("no_log_records")
@pytest.mark.parametrize(("name", "flood"), FLOODS, ids=[name for name, _ in FLOODS])
@in_virtual_time
async def test_flood_does_not_grow_memory(name: str, flood: AttackAction) -> None:
    async with hostile_harness() as harness:
        held = []
        tracemalloc.start()
        for _ in range(3):
            await flood(harness)
            await harness.assert_serves()
            harness.clear_history()
            held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        # Only the last round must not grow memory. The rounds before it fill bounded storage:
        # remembered ids, statistics, caches.
        assert held[-1] - held[-2] < 400 * KIB, held
        await harness.assert_no_jobs_left()
