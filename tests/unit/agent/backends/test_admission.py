import pytest

from provider_agent.adapters.base import (
    BackendError,
    BackendTimeout,
    BadRequest,
    BadStatus,
    ErrorInStream,
    InvalidResponse,
    MissingApiKey,
    ModelNotFound,
    PromptTooLong,
    Transport,
    Unreachable,
)
from provider_agent.agent.backends.admission import MAX_TOLD_REST_S, AdmissionControl
from provider_agent.agent.backends.breaker import DEFAULT_RULE, VENICE_RULE
from provider_agent.protocol.errors import ErrorCode

OVERLOADED = ErrorCode.BACKEND_OVERLOADED


class Clock:
    def __init__(self) -> None:
        self.now = 500.0

    def __call__(self) -> float:
        return self.now


class Guarded:
    """A guard and its clock."""

    def __init__(self, kind: str = "vllm", tokens_per_minute: int | None = None) -> None:
        self.clock = Clock()
        self.guard = AdmissionControl(kind, tokens_per_minute, self.clock)

    def job(self, error: BackendError | None = None, tokens: int = 0) -> bool:
        return self.guard.ended(self.guard.started(), error, tokens)


def test_a_new_guard_lets_jobs_in() -> None:
    guard = Guarded().guard
    assert (guard.is_out, guard.rest_s, guard.has_room) == (False, 0.0, True)
    assert (guard.reason, guard.retry_after_s) == ("", None)


@pytest.mark.parametrize(
    ("error", "counts", "look_again"),
    [
        (Unreachable("refused"), True, True),
        (Transport("broke"), True, True),
        (BackendTimeout("silence"), True, True),
        (InvalidResponse("early end"), True, True),
        (MissingApiKey("no key"), True, True),
        (ErrorInStream(b"{}", ErrorCode.BACKEND_ERROR), True, True),
        (BadStatus(500, b"", ErrorCode.BACKEND_ERROR), True, True),
        (BadStatus(503, b"", OVERLOADED), True, False),
        (BadStatus(429, b"", OVERLOADED, 0.0), True, False),
        (BadStatus(429, b"", OVERLOADED, -5.0), True, False),
        (ModelNotFound("gone"), False, True),
        (BadStatus(501, b"", ErrorCode.FORMAT_NOT_SUPPORTED), False, True),
        (BadRequest("no object"), False, False),
        (PromptTooLong(9000, 4096), False, False),
        (BadStatus(422, b"", ErrorCode.BAD_REQUEST), False, False),
    ],
)
def test_which_errors_count_against_a_backend(
    error: BackendError, counts: bool, look_again: bool
) -> None:
    guarded = Guarded()
    for _ in range(DEFAULT_RULE.failures - 1):
        assert guarded.job(error) is look_again
    assert not guarded.guard.is_out
    # The last one is looked into in any case where it takes the backend out.
    assert guarded.job(error) is (look_again or counts)
    assert guarded.guard.is_out is counts
    assert bool(guarded.guard.reason) is counts


def test_a_success_between_failures_is_a_new_beginning() -> None:
    guarded = Guarded()
    for _ in range(20):
        for _ in range(DEFAULT_RULE.failures - 1):
            guarded.job(Unreachable("refused"))
        assert guarded.job(None, 5) is False
    assert not guarded.guard.is_out


def test_stopped_jobs_neither_hurt_nor_heal() -> None:
    guarded = Guarded()
    for _ in range(DEFAULT_RULE.failures - 1):
        guarded.job(Unreachable("refused"))
        for _ in range(10):
            guarded.guard.dropped(guarded.guard.started())
    assert not guarded.guard.is_out
    guarded.job(Unreachable("refused"))
    assert guarded.guard.is_out


@pytest.mark.parametrize(("told_s", "rest_s"), [(0.5, 0.5), (30.0, 30.0), (1e9, MAX_TOLD_REST_S)])
def test_a_servers_own_word_is_a_rest_within_reason(told_s: float, rest_s: float) -> None:
    guarded = Guarded()
    assert guarded.job(BadStatus(429, b"", OVERLOADED, told_s)) is True
    assert guarded.guard.rest_s == pytest.approx(rest_s)
    assert guarded.guard.reason
    guarded.clock.now += rest_s
    assert (guarded.guard.is_out, guarded.guard.rest_s) == (False, 0.0)


def test_venice_is_left_alone_before_it_blocks_the_key() -> None:
    # It blocks for 30 s after more than 20 failures in 30 s.
    guarded = Guarded("venice")
    failures = 0
    while not guarded.guard.is_out:
        guarded.job(BadStatus(500, b"", ErrorCode.BACKEND_ERROR))
        guarded.clock.now += 1.4
        failures += 1
    assert failures == VENICE_RULE.failures < 20
    assert guarded.guard.rest_s >= 28


@pytest.mark.parametrize(
    "error",
    [
        BadStatus(400, b"", ErrorCode.BAD_REQUEST),
        BadStatus(404, b"", ErrorCode.MODEL_NOT_LOADED),
        BadStatus(429, b"", OVERLOADED),
        BadStatus(429, b"", OVERLOADED, 0.5),
    ],
)
def test_venice_counts_every_failed_request_whosever_fault_and_between_successes(
    error: BackendError,
) -> None:
    guarded = Guarded("venice")
    failed_at: list[float] = []
    for _ in range(300):
        if guarded.guard.has_room:
            guarded.job(error)
            failed_at.append(guarded.clock.now)
        if guarded.guard.has_room:
            guarded.job(None, 5)
        guarded.clock.now += 0.3
    assert max(sum(at <= one < at + 30 for one in failed_at) for at in failed_at) < 20


def test_what_never_reached_venice_does_not_count_there() -> None:
    guarded = Guarded("venice")
    for _ in range(100):
        guarded.job(BadRequest("no object"))
    assert not guarded.guard.is_out


def test_venice_is_not_taken_out_for_what_others_are() -> None:
    guarded = Guarded("venice")
    for _ in range(DEFAULT_RULE.failures):
        guarded.job(Unreachable("refused"))
    assert not guarded.guard.is_out


def test_tokens_per_minute_keep_jobs_out_until_they_have_flowed_in_again() -> None:
    guarded = Guarded(tokens_per_minute=600)
    guarded.job(None, 599)
    assert (guarded.guard.has_room, guarded.guard.retry_after_s) == (True, None)
    guarded.job(None, 51)  # what a job uses is known when it is over: it may overshoot
    assert (guarded.guard.has_room, guarded.guard.is_out) == (False, False), "full, not broken"
    wait_s = guarded.guard.retry_after_s or 0.0
    assert wait_s == pytest.approx(5.1)
    guarded.clock.now += wait_s
    assert (guarded.guard.has_room, guarded.guard.retry_after_s) == (True, None)


def test_no_limit_is_no_limit() -> None:
    guarded = Guarded()
    guarded.job(None, 10**12)
    assert (guarded.guard.has_room, guarded.guard.retry_after_s) == (True, None)


def test_half_open_admits_one_trial_of_which_nobody_knows_the_length() -> None:
    guarded = Guarded()
    for _ in range(DEFAULT_RULE.failures):
        guarded.job(Unreachable("refused"))
    guarded.clock.now += DEFAULT_RULE.rest_s
    assert (guarded.guard.has_room, guarded.guard.retry_after_s) == (True, None)
    guarded.guard.started()
    assert (guarded.guard.has_room, guarded.guard.retry_after_s) == (False, None)


def test_the_operators_limit_can_change_while_jobs_run() -> None:
    guarded = Guarded()
    guarded.guard.allow(600)
    guarded.job(None, 650)
    assert guarded.guard.retry_after_s == pytest.approx(5.1)
    guarded.guard.allow(6000)
    assert guarded.guard.retry_after_s == pytest.approx(0.51)
    guarded.guard.allow(None)
    assert (guarded.guard.has_room, guarded.guard.retry_after_s) == (True, None)
