import logging

import pytest

from provider_agent.event_log import EventLogger

NAME = "provider_agent.test_event_log"
log = EventLogger(NAME)


def only_record(caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    (record,) = caplog.records
    return record


def test_keyword_arguments_become_the_fields_of_the_record(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log.warning("connected", resumed=3, event="a field", level="another")

    record = only_record(caplog)
    assert (record.name, record.getMessage()) == (NAME, "connected")
    fields = record.__dict__["fields"]
    assert fields == {"resumed": 3, "event": "a field", "level": "another"}


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_each_method_logs_at_the_level_of_its_name(
    caplog: pytest.LogCaptureFixture, level: str
) -> None:
    caplog.set_level(logging.DEBUG, NAME)

    getattr(log, level)("event")

    assert only_record(caplog).levelname == level.upper()


def test_log_uses_the_given_level(caplog: pytest.LogCaptureFixture) -> None:
    log.log(logging.CRITICAL, "event", n=1)

    assert only_record(caplog).levelno == logging.CRITICAL


def test_record_names_the_file_and_function_of_the_caller(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log.error("event")
    log.failure("event", ValueError())
    log.log(logging.ERROR, "event")

    callers = {(record.pathname, record.funcName) for record in caplog.records}
    assert callers == {(__file__, "test_record_names_the_file_and_function_of_the_caller")}


def test_failure_attaches_the_traceback_of_its_error(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("broken")
    except ValueError as caught:
        error = caught

    log.failure("background task failed", error, task="reader")

    record = only_record(caplog)
    assert record.exc_info == (ValueError, error, error.__traceback__)
    assert record.levelno == logging.ERROR


def test_exception_attaches_the_exception_that_is_being_handled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = ValueError("broken")
    try:
        raise error
    except ValueError:
        log.exception("background task failed")

    exc_info = only_record(caplog).exc_info
    assert exc_info is not None
    assert exc_info[1] is error


def test_disabled_level_creates_no_record(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, NAME)
    created: list[object] = []
    monkeypatch.setattr(
        logging.getLogger(NAME), "makeRecord", lambda *args, **_kwargs: created.append(args)
    )

    log.debug("event")

    assert not log.enabled_for(logging.DEBUG)
    assert created == []


def test_record_has_the_attributes_of_every_log_record(caplog: pytest.LogCaptureFixture) -> None:
    # Formatters of others insert them by name.
    log.warning("event")

    plain = logging.LogRecord("name", logging.WARNING, __file__, 1, "event", None, None)
    assert set(vars(plain)) - set(vars(only_record(caplog))) == set()
    assert only_record(caplog).filename == "test_event_log.py"
    assert only_record(caplog).module == "test_event_log"
