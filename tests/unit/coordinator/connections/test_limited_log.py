import logging

import pytest

from provider_agent.coordinator.connections.limited_log import MAX_LINES, PERIOD_S, LimitedLog
from provider_agent.event_log import EventLogger
from tests.kit.fake_clock import FakeClock


def test_lines_beyond_the_limit_are_counted_in_the_next_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    clock = FakeClock()
    log = LimitedLog(EventLogger("test"), clock)
    for _ in range(MAX_LINES + 5):
        log.log(logging.INFO, "refused", status=401)
    assert len(caplog.records) == MAX_LINES
    clock.now += PERIOD_S
    for _ in range(2):
        log.log(logging.INFO, "refused", status=401)
    after = [getattr(record, "fields", {}) for record in caplog.records[MAX_LINES:]]
    assert after == [{"status": 401, "omitted": 5}, {"status": 401}]
