import logging

from provider_agent.agent.telemetry.log_folding import (
    EVENT,
    LOGGED,
    MAX_KINDS,
    WINDOW_S,
    WarningFolder,
)
from tests.kit.fake_clock import FakeClock


class Handler(logging.Handler):
    """Records what passes."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.logged: list[tuple[str, object]] = []
        self.addFilter(WarningFolder(self.handle, clock))

    def emit(self, record: logging.LogRecord) -> None:
        self.logged.append((record.getMessage(), record.__dict__.get("fields")))

    def log(self, level: int, event: str, **fields: object) -> None:
        record = logging.LogRecord("agent", level, "", 0, event, None, None)
        record.fields = fields
        self.handle(record)

    def warn(self, event: str, **fields: object) -> None:
        self.log(logging.WARNING, event, **fields)

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.logged]


def test_repeated_warnings_are_counted_and_their_number_logged_after_a_minute() -> None:
    clock = FakeClock(0.0)
    handler = Handler(clock)
    for number in range(LOGGED + 7):
        handler.warn("not connected", reason="refused", wait_s=number)
    assert handler.events == ["not connected"] * LOGGED
    clock.now = WINDOW_S
    handler.log(logging.INFO, "connected")
    summary = {"warning": "not connected", "count": 7, "seconds": 60, "reason": "refused"}
    assert handler.logged[LOGGED:] == [(EVENT, summary), ("connected", {})]
    handler.warn("not connected", reason="refused", wait_s=1)
    assert handler.events[-1] == "not connected"


def test_every_job_keeps_its_line() -> None:
    handler = Handler(FakeClock(0.0))
    for number in range(LOGGED + 5):
        handler.warn("job ended", job=f"{number}", code="backend_error")
    assert len(handler.logged) == LOGGED + 5


def test_every_attempt_to_connect_keeps_its_line() -> None:
    """`run` logged three attempts, and then nothing for over a minute."""
    handler = Handler(FakeClock(0.0))
    for number in range(LOGGED + 5):
        handler.warn("not connected", reason="refused", retry_in_s=number)
    assert len(handler.logged) == LOGGED + 5


def test_summary_has_the_time_of_the_record_that_follows() -> None:
    """It was created later, and had a later time than the line below it."""
    clock = FakeClock(0.0)
    handler = Handler(clock)
    times: list[float] = []
    handler.emit = lambda record: times.append(record.created)  # type: ignore[method-assign]
    for _ in range(LOGGED + 1):
        handler.warn("event")
    clock.now = WINDOW_S
    handler.log(logging.INFO, "other")
    assert times[-2] == times[-1]


def test_warnings_with_other_texts_are_not_repetitions() -> None:
    handler = Handler(FakeClock(0.0))
    for number in range(LOGGED + 5):
        handler.warn("configuration warning", note=f"note {number}")
    assert len(handler.logged) == LOGGED + 5


def test_other_levels_are_never_dropped() -> None:
    handler = Handler(FakeClock(0.0))
    for level in (logging.INFO, logging.ERROR):
        for _ in range(LOGGED + 5):
            handler.log(level, "event")
    assert len(handler.logged) == 2 * (LOGGED + 5)


def test_few_repetitions_leave_no_summary() -> None:
    clock = FakeClock(0.0)
    handler = Handler(clock)
    for _ in range(LOGGED):
        handler.warn("event")
    clock.now = WINDOW_S
    handler.warn("other")
    assert handler.events == ["event"] * LOGGED + ["other"]


def test_number_of_counted_kinds_is_bounded() -> None:
    handler = Handler(FakeClock(0.0))
    for number in range(MAX_KINDS):
        handler.warn(f"event {number}")
    before = len(handler.logged)
    for _ in range(LOGGED + 5):
        handler.warn("one more")
    assert len(handler.logged) == before + LOGGED + 5


def test_foreign_records_without_fields_pass() -> None:
    handler = Handler(FakeClock(0.0))
    for _ in range(LOGGED + 5):
        handler.handle(logging.LogRecord("x", logging.WARNING, "", 0, "text", None, None))
    assert handler.events == ["text"] * (LOGGED + 5)
