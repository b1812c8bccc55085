from itertools import count

import pytest

from provider_agent.adapters.base import (
    Backend,
    BackendError,
    BackendTimeout,
    BadRequest,
    BadStatus,
    BreakerRule,
    ErrorInStream,
    InvalidResponse,
    MissingApiKey,
    ModelNotFound,
    PromptTooLong,
    Transport,
    Unreachable,
)
from provider_agent.adapters.servers.venice import VeniceBackend
from provider_agent.agent.backends.admission import (
    MAX_MODELS,
    MAX_SERVER_WAIT_S,
    AdmissionControl,
    Check,
)
from provider_agent.protocol.errors import ErrorCode
from tests.kit.fake_clock import FakeClock
from tests.kit.scripted_backend import ScriptedBackend

OVERLOADED = ErrorCode.BACKEND_OVERLOADED
DEFAULT_RULE = BreakerRule()
VENICE_RULE = VeniceBackend.breaker_rule


class AdmissionHarness:
    """An admission control of a backend with one model, and its clock."""

    def __init__(
        self,
        rule: BreakerRule = DEFAULT_RULE,
        tokens_per_minute: int | None = None,
        *,
        confirms: bool = False,
    ) -> None:
        attributes = {"breaker_rule": rule, "confirms_failures": confirms}
        backend: Backend = type("Ruled", (ScriptedBackend,), attributes)()
        self.clock = FakeClock(500.0)
        self.admission = AdmissionControl(backend, tokens_per_minute, self.clock)
        self._requests = count()

    @property
    def is_open(self) -> bool:
        return self.admission.is_open("m")

    @property
    def has_capacity(self) -> bool:
        return self.admission.has_capacity("m")

    @property
    def open_s(self) -> float:
        return self.admission.next_change_s or 0.0

    def run_job(
        self,
        error: BackendError | None = None,
        tokens: int = 0,
        *,
        model_id: str = "m",
        request: int | None = None,
    ) -> Check:
        """Run a job that fails with `error`, or succeeds; return what to check."""
        admitted = self.admission.start(model_id)
        if error is not None:
            request = next(self._requests) if request is None else request
            return self.admission.failed(admitted, error, request)
        self.admission.consume(tokens)
        self.admission.succeeded(admitted)
        return Check.NOTHING


def test_a_new_admission_control_admits_jobs() -> None:
    harness = AdmissionHarness()
    assert (harness.is_open, harness.open_s, harness.has_capacity) == (False, 0.0, True)
    assert (harness.admission.reason, harness.admission.retry_after_s) == ("", None)


@pytest.mark.parametrize(
    ("error", "counts", "check_now"),
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
def test_which_errors_count_as_failures_and_which_trigger_a_health_check(
    error: BackendError, counts: bool, check_now: bool
) -> None:
    harness = AdmissionHarness()
    check = Check.CONNECTION if isinstance(error, Unreachable) else Check.HEALTH
    for _ in range(DEFAULT_RULE.failures - 1):
        assert harness.run_job(error) is (check if check_now else Check.NOTHING)
    assert not harness.is_open
    # The failure that opens the breaker always triggers a health check.
    assert harness.run_job(error) is (check if check_now or counts else Check.NOTHING)
    assert harness.is_open is counts
    assert bool(harness.admission.reason) is counts


def test_a_success_resets_the_failures() -> None:
    harness = AdmissionHarness()
    for _ in range(20):
        for _ in range(DEFAULT_RULE.failures - 1):
            harness.run_job(Unreachable("refused"))
        assert harness.run_job(None, 5) is Check.NOTHING
    assert not harness.is_open


def test_abandoned_jobs_neither_count_nor_reset_failures() -> None:
    harness = AdmissionHarness()
    for _ in range(DEFAULT_RULE.failures - 1):
        harness.run_job(Unreachable("refused"))
        for _ in range(10):
            harness.admission.abandoned(harness.admission.start("m"))
    assert not harness.is_open
    harness.run_job(Unreachable("refused"))
    assert harness.is_open


@pytest.mark.parametrize(
    ("asked_s", "open_s"), [(0.5, 0.5), (30.0, 30.0), (1e9, MAX_SERVER_WAIT_S)]
)
def test_retry_after_opens_the_breaker_for_a_bounded_time(asked_s: float, open_s: float) -> None:
    harness = AdmissionHarness()
    assert harness.run_job(BadStatus(429, b"", OVERLOADED, asked_s)) is Check.HEALTH
    assert harness.open_s == pytest.approx(open_s)
    assert harness.admission.reason
    harness.clock.now += open_s
    assert (harness.is_open, harness.open_s) == (False, 0.0)


def test_breaker_opens_before_venice_blocks_the_key() -> None:
    # Venice blocks a key for 30 s after more than 20 failed requests in 30 s.
    harness = AdmissionHarness(VENICE_RULE)
    failures = 0
    while not harness.is_open:
        harness.run_job(BadStatus(500, b"", ErrorCode.BACKEND_ERROR))
        harness.clock.now += 1.4
        failures += 1
    assert failures == VENICE_RULE.failures < 20
    assert harness.open_s >= 28


@pytest.mark.parametrize(
    "error",
    [
        BadStatus(400, b"", ErrorCode.BAD_REQUEST),
        BadStatus(404, b"", ErrorCode.MODEL_NOT_LOADED),
        BadStatus(429, b"", OVERLOADED),
        BadStatus(429, b"", OVERLOADED, 0.5),
    ],
)
def test_fewer_than_20_requests_to_venice_fail_in_30_s_whatever_the_cause(
    error: BackendError,
) -> None:
    harness = AdmissionHarness(VENICE_RULE)
    failed_at: list[float] = []
    for _ in range(300):
        if harness.has_capacity:
            harness.run_job(error)
            failed_at.append(harness.clock.now)
        if harness.has_capacity:
            harness.run_job(None, 5)
        harness.clock.now += 0.3
    assert max(sum(start <= at < start + 30 for at in failed_at) for start in failed_at) < 20


def test_an_error_before_the_request_is_sent_does_not_count_for_venice() -> None:
    harness = AdmissionHarness(VENICE_RULE)
    for _ in range(100):
        harness.run_job(BadRequest("no object"))
    assert not harness.is_open


def test_venice_rule_tolerates_more_failures_than_the_default_rule() -> None:
    harness = AdmissionHarness(VENICE_RULE)
    for _ in range(DEFAULT_RULE.failures):
        harness.run_job(Unreachable("refused"))
    assert not harness.is_open


def test_token_limit_refuses_jobs_until_tokens_are_available() -> None:
    harness = AdmissionHarness(tokens_per_minute=600)
    harness.run_job(None, 599)
    assert (harness.has_capacity, harness.admission.retry_after_s) == (True, None)
    harness.run_job(None, 51)  # usage is known only at a job's end, so it may exceed the limit
    assert (harness.has_capacity, harness.is_open) == (False, False), (
        "the token limit does not open the breaker"
    )
    wait_s = harness.admission.retry_after_s or 0.0
    assert wait_s == pytest.approx(5.1)
    harness.clock.now += wait_s
    assert (harness.has_capacity, harness.admission.retry_after_s) == (True, None)


def test_without_a_token_limit_usage_has_no_effect() -> None:
    harness = AdmissionHarness()
    harness.run_job(None, 10**12)
    assert (harness.has_capacity, harness.admission.retry_after_s) == (True, None)


def test_a_half_open_breaker_admits_one_trial_and_reports_no_wait() -> None:
    harness = AdmissionHarness()
    for _ in range(DEFAULT_RULE.failures):
        harness.run_job(Unreachable("refused"))
    harness.clock.now += DEFAULT_RULE.open_s
    assert (harness.has_capacity, harness.admission.retry_after_s) == (True, None)
    harness.admission.start("m")
    assert (harness.has_capacity, harness.admission.retry_after_s) == (False, None)


def test_a_changed_token_limit_applies_at_once() -> None:
    harness = AdmissionHarness()
    harness.admission.set_token_limit(600)
    harness.run_job(None, 650)
    assert harness.admission.retry_after_s == pytest.approx(5.1)
    harness.admission.set_token_limit(6000)
    assert harness.admission.retry_after_s == pytest.approx(0.51)
    harness.admission.set_token_limit(None)
    assert (harness.has_capacity, harness.admission.retry_after_s) == (True, None)


# --- requests that fail on purpose ----------------------------------------------------------------

BROKEN = BadStatus(500, b"", ErrorCode.BACKEND_ERROR)


def test_one_request_that_fails_again_and_again_opens_no_breaker() -> None:
    harness = AdmissionHarness()
    for _ in range(10 * DEFAULT_RULE.failures):
        harness.run_job(BROKEN, request=7)
    assert not harness.is_open
    for _ in range(DEFAULT_RULE.failures - 1):
        harness.run_job(BROKEN)
    assert harness.is_open


def test_failures_that_a_model_check_can_confirm_open_no_breaker() -> None:
    harness = AdmissionHarness(confirms=True)
    checks = [harness.run_job(BROKEN) for _ in range(2 * DEFAULT_RULE.failures)]
    assert checks == [*[Check.HEALTH] * (DEFAULT_RULE.failures - 1), *[Check.MODEL] * 6]
    assert (harness.is_open, harness.has_capacity) == (False, True)

    harness.admission.reset()
    assert harness.run_job(BROKEN) is Check.HEALTH


# --- models ---------------------------------------------------------------------------------------

PER_MODEL = BreakerRule(per_model=True)


def test_request_to_wait_pauses_only_the_requested_model() -> None:
    harness = AdmissionHarness(PER_MODEL)
    harness.run_job(BadStatus(429, b"", OVERLOADED, 30.0), model_id="limited")
    assert harness.admission.is_open("limited")
    assert not harness.is_open
    assert harness.admission.next_change_s == pytest.approx(30.0)
    assert "no jobs for limited for up to 30 s" in harness.admission.reason


def test_failures_of_one_model_leave_the_others_in_service() -> None:
    harness = AdmissionHarness(PER_MODEL)
    for _ in range(DEFAULT_RULE.failures):
        harness.run_job(BROKEN, model_id="broken")
        harness.run_job(None, 5)  # a success of another model does not reset the count
    assert harness.admission.is_open("broken")
    assert not harness.is_open


def test_service_that_blocks_keys_counts_every_failure_of_one_request() -> None:
    harness = AdmissionHarness(VENICE_RULE)
    for _ in range(VENICE_RULE.failures):
        harness.run_job(BadStatus(400, b"", ErrorCode.BAD_REQUEST), request=7)
    assert harness.is_open


def test_failures_at_a_service_that_blocks_keys_count_for_all_models() -> None:
    harness = AdmissionHarness(VENICE_RULE)
    for number in range(VENICE_RULE.failures):
        harness.run_job(BadStatus(429, b"", OVERLOADED, 0.1), model_id=f"model {number}")
    assert harness.is_open


def test_models_with_a_breaker_are_bounded() -> None:
    harness = AdmissionHarness(PER_MODEL)
    harness.run_job(BadStatus(429, b"", OVERLOADED, 30.0), model_id="limited")
    for number in range(2 * MAX_MODELS):
        harness.run_job(None, 5, model_id=f"model {number}")
    assert harness.admission.is_open("limited")
    assert f"models={MAX_MODELS} " in repr(harness.admission)


# --- half open ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [DEFAULT_RULE, PER_MODEL, VENICE_RULE])
def test_first_output_of_a_trial_closes_the_breaker(rule: BreakerRule) -> None:
    harness = AdmissionHarness(rule)
    for _ in range(rule.failures):
        harness.run_job(BROKEN)
    harness.clock.now += rule.open_s
    trial = harness.admission.start("m")
    assert not harness.admission.has_capacity("m")

    harness.admission.responded(trial)

    assert harness.admission.has_capacity("m")
    for _ in range(rule.failures - 1):
        harness.run_job(BROKEN)
    assert not harness.is_open


def test_reset_closes_a_breaker_that_failures_opened_but_keeps_a_requested_wait() -> None:
    harness = AdmissionHarness(PER_MODEL)
    for _ in range(DEFAULT_RULE.failures):
        harness.run_job(BROKEN)
    harness.run_job(BadStatus(429, b"", OVERLOADED, 30.0), model_id="limited")
    harness.admission.reset()
    assert not harness.is_open
    assert harness.admission.is_open("limited")
