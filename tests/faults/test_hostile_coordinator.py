"""What an agent does about a coordinator that breaks, bends or floods the protocol."""

import contextlib
import logging
import tracemalloc
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed

from tests.kit.hostile_harness import Act, Attack, hostile_harness, names_of_tasks
from tests.kit.hostile_jobs import ATTACKS, FLOODS
from tests.kit.hostile_messages import HOSTILE_MESSAGES, Hostile
from tests.kit.virtual_time import in_virtual_time

KIB = 1024


@pytest.mark.parametrize("hostile", HOSTILE_MESSAGES, ids=lambda hostile: hostile.name)
@in_virtual_time
async def test_a_hostile_message_is_answered_as_the_table_says(hostile: Hostile) -> None:
    async with hostile_harness() as harness:
        await harness.serves_on()
        tasks = names_of_tasks()
        with contextlib.suppress(ConnectionClosed):  # perhaps before it has read all of it
            await harness.peer.send_raw(hostile.to_agent)
        if hostile.close_code is None:
            await harness.serves_on()
        else:
            assert await harness.close_code() == hostile.close_code
            await harness.serves_another()
        await harness.is_as_new()
        assert names_of_tasks() == tasks


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
@in_virtual_time
async def test_an_attack_is_answered_as_the_table_says(attack: Attack) -> None:
    async with hostile_harness() as harness:
        await harness.serves_on()
        harness.forget()
        tasks = names_of_tasks()
        await attack.act(harness)
        if attack.close_code is None:
            await harness.serves_on()
        else:
            assert await harness.close_code() == attack.close_code
            while not harness.backend._new_runs.empty():
                harness.backend._new_runs.get_nowait()
            await harness.serves_another()
        await harness.is_as_new()
        assert names_of_tasks() == tasks


@pytest.fixture
def unlogged() -> Iterator[None]:
    """pytest keeps every record of a test."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("unlogged")
@pytest.mark.parametrize(("name", "flood"), FLOODS, ids=[name for name, _ in FLOODS])
@in_virtual_time
async def test_a_flood_leaves_nothing_in_memory(name: str, flood: Act) -> None:
    async with hostile_harness() as harness:
        held = []
        tracemalloc.start()
        for _ in range(3):
            await flood(harness)
            await harness.serves_on()
            harness.forget()
            held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        # The first ones fill what is bounded: remembered ids, figures, caches.
        assert held[-1] - held[-2] < 400 * KIB, held
        await harness.is_as_new()
