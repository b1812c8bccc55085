import pytest

from provider_agent.coordinator.agents import job_history
from provider_agent.coordinator.agents.job_history import FAILURE_DECAY_S, RECENT_S, JobHistory
from provider_agent.protocol.frames import JobError, JobResult, Usage
from tests.kit.fake_clock import FakeClock

AGENT, MODEL = b"agent", "tiny"


def failed(code: str, retry_after_ms: int | None = None) -> JobError:
    return JobError(bytes(16), 0, code, "", retry_after_ms=retry_after_ms)


def completed(output_tokens: int | None, total_bytes: int = 1000) -> JobResult:
    return JobResult(bytes(16), total_bytes, Usage(1, output_tokens), "b", 1, 1)


@pytest.mark.parametrize(
    ("end", "refused_s", "failures"),
    [
        (failed("out_of_capacity"), 1.0, 0),
        (failed("out_of_capacity", 4000), 4.0, 0),
        (failed("out_of_capacity", 0), 0.1, 0),
        (failed("backend_overloaded", 3_600_000), 30.0, 0),
        (failed("model_not_loaded"), 1.0, 0),
        (failed("draining"), 1.0, 0),
        (failed("backend_error"), None, 1),
        (failed("invalid_response"), None, 1),
        (failed("of_a_newer_agent"), None, 1),
        (failed("bad_request"), None, 0),
        (failed("cancelled"), None, 0),
        (failed("deadline_exceeded"), None, 0),
        (completed(5), None, 0),
    ],
)
def test_refusals_are_remembered_for_a_moment_and_failures_of_the_agent_counted(
    end: JobError | JobResult, refused_s: float | None, failures: int
) -> None:
    clock = FakeClock()
    history = JobHistory(clock)
    history.job_ended(AGENT, MODEL, end, 1.0)

    retry_s = history.next_retry_s([AGENT, b"other"], MODEL)
    assert retry_s == (None if refused_s is None else pytest.approx(refused_s))
    assert history.seen(AGENT, MODEL).failures == failures
    assert history.seen(AGENT, MODEL).refuses == (refused_s is not None)
    assert not history.seen(AGENT, "other").refuses
    clock.now += 31.0
    assert not history.seen(AGENT, MODEL).refuses


def test_failures_count_less_after_a_success_and_with_time() -> None:
    clock = FakeClock()
    history = JobHistory(clock)
    history.job_ended(AGENT, MODEL, failed("internal"), 1.0)
    history.job_ended(AGENT, MODEL, completed(None), 1.0)
    assert history.seen(AGENT, MODEL).failures == 0.5
    clock.now += FAILURE_DECAY_S
    assert history.seen(AGENT, MODEL).failures == pytest.approx(0.5 / 2.718281828)


def test_speed_is_measured_by_the_clock_of_the_coordinator() -> None:
    clock = FakeClock()
    history = JobHistory(clock)
    history.job_ended(AGENT, MODEL, completed(199), 4.0)
    assert history.seen(AGENT, MODEL).job_s is None, "fewer tokens than MIN_MEASURED_TOKENS"
    # A job of unknown usage does not count. The others: 400 tokens in 8 s, so the reference job
    # of 200 tokens takes 4 s.
    history.job_ended(AGENT, MODEL, completed(None), 60.0)
    history.job_ended(AGENT, MODEL, completed(201), 4.0)
    assert history.seen(AGENT, MODEL).job_s == pytest.approx(4.0)
    clock.now += 2 * RECENT_S
    assert history.seen(AGENT, MODEL).job_s is None


def test_reported_tokens_beyond_the_bytes_of_the_output_do_not_raise_the_speed() -> None:
    history = JobHistory(FakeClock())
    history.job_ended(AGENT, MODEL, completed(2**53 - 1, total_bytes=400), 4.0)
    assert history.seen(AGENT, MODEL).job_s == pytest.approx(2.0)


def test_entries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_history, "MAX_ENTRIES", 2)
    history = JobHistory(FakeClock())
    for number in range(3):
        history.job_ended(bytes([number]), MODEL, failed("internal"), 1.0)
    assert [history.seen(bytes([number]), MODEL).failures for number in range(3)] == [0, 1, 1]
