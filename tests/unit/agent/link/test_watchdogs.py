import pytest

from provider_agent.agent.link.watchdogs import WRITE_STALL_S, WriteProgress

Looks = list[tuple[float, int, bool]]
"""When somebody looks, what is in the buffer, and whether it counts as stalled."""


@pytest.mark.parametrize(
    "looks",
    [
        pytest.param([(29.9, 100, False), (30, 100, True)], id="nothing moves"),
        pytest.param(
            [(29, 100, False), (40, 99, False), (69, 99, False), (70, 99, True)], id="a byte"
        ),
        pytest.param([(20, 100, False), (30, 200, True)], id="growing is no progress"),
        pytest.param(
            [(float(second), 10_000 - second, False) for second in range(10, 600, 10)],
            id="slow, but it moves",
        ),
    ],
)
def test_what_waits_has_to_move(looks: Looks) -> None:
    progress = WriteProgress()
    progress.begin(0.0)
    for now, buffered, stalled in looks:
        assert progress.stalled(buffered, now) is stalled, now


def test_nobody_who_sends_nothing_is_stalled() -> None:
    progress = WriteProgress()
    assert not progress.stalled(100, 1e6)
    progress.begin(1e6)
    progress.end(1e6)
    assert not progress.stalled(100, 2e6)


def test_the_clock_begins_with_the_first_who_waits_and_anew_when_one_is_done() -> None:
    progress = WriteProgress()
    progress.begin(100.0)
    progress.begin(120.0)
    assert not progress.stalled(100, 129.9)
    assert progress.stalled(100, 100.0 + WRITE_STALL_S)
    progress.end(131.0)
    assert not progress.stalled(100, 160.9)
    assert progress.stalled(100, 131.0 + WRITE_STALL_S)
