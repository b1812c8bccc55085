"""What an agent does about a coordinator that breaks, bends or floods the protocol."""

import logging
import tracemalloc
from collections.abc import Iterator

import pytest

from tests.kit.hostile_jobs import ATTACKS, FLOODS
from tests.kit.hostile_messages import HOSTILE_MESSAGES, Hostile
from tests.kit.hostile_stage import Act, Attack, hostile_stage, names_of_tasks
from tests.kit.virtual_time import in_virtual_time

KIB = 1024


@pytest.mark.parametrize("hostile", HOSTILE_MESSAGES, ids=lambda hostile: hostile.name)
@in_virtual_time
async def test_a_hostile_message_is_answered_as_the_table_says(hostile: Hostile) -> None:
    async with hostile_stage() as stage:
        await stage.serves_on()
        tasks = names_of_tasks()
        await stage.peer.send_raw(hostile.to_agent)
        if hostile.close_code is None:
            await stage.serves_on()
        else:
            assert await stage.close_code() == hostile.close_code
            await stage.serves_another()
        await stage.is_as_new()
        assert names_of_tasks() == tasks


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
@in_virtual_time
async def test_an_attack_is_answered_as_the_table_says(attack: Attack) -> None:
    async with hostile_stage() as stage:
        await stage.serves_on()
        stage.forget()
        tasks = names_of_tasks()
        await attack.act(stage)
        if attack.close_code is None:
            await stage.serves_on()
        else:
            assert await stage.close_code() == attack.close_code
            while not stage.backend._new_runs.empty():
                stage.backend._new_runs.get_nowait()
            await stage.serves_another()
        await stage.is_as_new()
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
    async with hostile_stage() as stage:
        held = []
        tracemalloc.start()
        for _ in range(3):
            await flood(stage)
            await stage.serves_on()
            stage.forget()
            held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        # The first ones fill what is bounded: remembered ids, figures, caches.
        assert held[-1] - held[-2] < 400 * KIB, held
        await stage.is_as_new()
