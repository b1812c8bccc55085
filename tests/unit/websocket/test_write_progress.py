import pytest

from provider_agent.websocket.write_progress import WRITE_STALL_S, WriteProgress, WriteTimer

Checks = list[tuple[float, int, bool]]
"""The time of a check, the bytes in the buffer, and whether the link counts as stalled."""


@pytest.mark.parametrize(
    "checks",
    [
        pytest.param([(29.9, 100, False), (30, 100, True)], id="no progress"),
        pytest.param(
            [(29, 100, False), (40, 99, False), (69, 99, False), (70, 99, True)],
            id="one byte of progress",
        ),
        pytest.param([(20, 100, False), (30, 200, True)], id="a growing buffer is not progress"),
        pytest.param(
            [(float(second), 10_000 - second, False) for second in range(10, 600, 10)],
            id="slow progress",
        ),
    ],
)
def test_a_link_is_stalled_after_30_s_without_progress(checks: Checks) -> None:
    progress = WriteProgress()
    progress.begin(0.0)
    for now, buffered, stalled in checks:
        assert progress.stalled(buffered, now) is stalled, now


def test_an_idle_link_is_never_stalled() -> None:
    progress = WriteProgress()
    assert not progress.stalled(100, 1e6)
    progress.begin(1e6)
    progress.end(1e6)
    assert not progress.stalled(100, 2e6)


def test_timeout_starts_with_the_first_write_and_restarts_when_one_ends() -> None:
    progress = WriteProgress()
    progress.begin(100.0)
    progress.begin(120.0)
    assert not progress.stalled(100, 129.9)
    assert progress.stalled(100, 100.0 + WRITE_STALL_S)
    progress.end(131.0)
    assert not progress.stalled(100, 160.9)
    assert progress.stalled(100, 131.0 + WRITE_STALL_S)


def test_write_timer_also_records_a_failed_write() -> None:
    times = iter([100.0, 103.0, 200.0, 230.0])
    progress = WriteProgress()
    timer = WriteTimer(progress, lambda: next(times))
    with pytest.raises(ConnectionError), timer:
        raise ConnectionError
    assert timer.duration_s == 3.0
    assert not progress.stalled(100, 1000.0)
    with timer:
        assert progress.stalled(100, 200.0 + WRITE_STALL_S)
