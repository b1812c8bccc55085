"""The CPU time of relays, as the benchmark reads it."""

import itertools
from collections.abc import Iterable

import pytest

from bench.process_usage import wait_until_idle

MS = 1_000_000


@pytest.mark.parametrize(
    ("used_ms", "checks"),
    [
        ([100, 101], 1),
        ([100, 300, 500, 504], 3),
        (itertools.count(0, 50), 20),
    ],
    ids=["idle", "after its start", "never idle"],
)
def test_it_waits_until_a_process_is_idle_but_not_forever(
    used_ms: Iterable[int], checks: int
) -> None:
    values, waits = iter(used_ms), list[float]()
    wait_until_idle([1], lambda _pid: next(values) * MS, waits.append)
    assert waits == [0.25] * checks


def test_all_processes_of_a_relay_have_to_be_idle() -> None:
    used = {1: iter([0, 0, 0]), 2: iter([0, 200 * MS, 200 * MS])}
    waits: list[float] = []
    wait_until_idle([1, 2], lambda pid: next(used[pid]), waits.append)
    assert len(waits) == 2
