"""The decisions that the debug log shows, and the content that it never shows."""

import logging
from collections.abc import Mapping

import pytest

from provider_agent.adapters.base import BackendError, BadStatus, InvalidResponse, Unreachable
from provider_agent.adapters.breaker_rule import BreakerRule
from provider_agent.agent.backends.admission import AdmissionControl
from provider_agent.agent.jobs import admission, backend_pool
from provider_agent.protocol.errors import ErrorCode
from tests.kit.discovery_harness import DiscoveryHarness
from tests.kit.fake_clock import FakeClock
from tests.kit.jobs import new_job, submit_job
from tests.kit.jobs_harness import JobsHarness, start_job
from tests.kit.scripted_backend import ScriptedBackend
from tests.kit.virtual_time import in_virtual_time


@pytest.fixture
def debug_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "provider_agent")
    return caplog


def fields_of(log: pytest.LogCaptureFixture, event: str) -> list[Mapping[str, object]]:
    """Return the fields of every record of an event."""
    return [vars(one)["fields"] for one in log.records if one.message == event]


def field(log: pytest.LogCaptureFixture, event: str, name: str) -> list[object]:
    """Return the value of one field in every record of an event."""
    return [fields[name] for fields in fields_of(log, event)]


# --- routing and admission ------------------------------------------------------------------------


async def test_routes_and_the_chosen_backend_are_logged(
    debug_log: pytest.LogCaptureFixture,
) -> None:
    busy, idle = ScriptedBackend("busy", max_concurrent=4), ScriptedBackend("idle")
    harness = JobsHarness(busy, idle)
    harness.pool.running["busy"] = 3
    job, run = await start_job(harness, idle)
    run.answer(b"x")
    await harness.end(job)
    (routes,) = fields_of(debug_log, "routes considered")
    assert (routes["job"], routes["model"], routes["format"]) == (job.job_id.hex(), "m", "openai")
    assert routes["considered"] == [
        {
            "backend": name,
            "native": True,
            "price": None,
            "operations": ["chat", "messages"],
            "in_flight": in_flight,
            "capacity": capacity,
            "retry_after_s": None,
        }
        for name, in_flight, capacity in [("busy", 3, 4), ("idle", 0, 8)]
    ]
    assert (routes["chosen"], routes["refusal"]) == (["idle", "busy"], None)
    (admitted,) = fields_of(debug_log, "job admitted")
    assert admitted == {"job": job.job_id.hex(), "backend": "idle"}
    assert field(debug_log, "attempt started", "attempt") == [1]


async def test_a_refusal_is_logged_with_its_reason(debug_log: pytest.LogCaptureFixture) -> None:
    harness = JobsHarness(ScriptedBackend())
    submit_job(harness.jobs, new_job("unknown"))
    harness.jobs.set_accepting(accepting=False)
    submit_job(harness.jobs, new_job())
    assert field(debug_log, "job refused", "code") == ["model_not_loaded", "draining"]
    reasons = field(debug_log, "job refused", "reason")
    assert reasons == field(debug_log, "job ended", "message")
    assert field(debug_log, "routes considered", "refusal") == reasons[:1]


async def test_debug_fields_are_not_computed_at_a_higher_log_level(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "provider_agent")

    def fail(*_: object) -> None:
        raise AssertionError("debug fields were computed")

    monkeypatch.setattr(admission, "_log_decision", fail)
    monkeypatch.setattr(backend_pool, "_log_routes", fail)
    backend = ScriptedBackend()
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    run.answer(b"x")
    await harness.end(job)
    assert caplog.messages == ["job ended"]


# --- failover -------------------------------------------------------------------------------------


async def test_a_failover_and_its_attempts_are_logged(debug_log: pytest.LogCaptureFixture) -> None:
    first, second = ScriptedBackend("a"), ScriptedBackend("b")
    harness = JobsHarness(first, second)
    job, run = await start_job(harness, first)
    run.fail(Unreachable("refused"))
    (await second.next_run()).answer(b"x")
    await harness.end(job)
    assert field(debug_log, "job failed over", "error") == ["backend_unreachable"]
    started = [(one["backend"], one["attempt"]) for one in fields_of(debug_log, "attempt started")]
    assert started == [("a", 1), ("b", 2)]


@pytest.mark.parametrize(
    ("error", "started", "reason"),
    [
        (Unreachable("refused"), False, "no other backend is available"),
        (Unreachable("refused"), True, "the response has started"),
        (BadStatus(400, b"", ErrorCode.BAD_REQUEST), False, "the error is not retryable"),
    ],
)
async def test_why_a_job_does_not_fail_over_is_logged(
    debug_log: pytest.LogCaptureFixture, error: BackendError, started: bool, reason: str
) -> None:
    backend = ScriptedBackend("a")
    harness = JobsHarness(backend)
    job, run = await start_job(harness, backend)
    if started:
        run.start()
    run.fail(error)
    await harness.end(job)
    (fields,) = fields_of(debug_log, "job not failed over")
    assert (fields["backend"], fields["error"], fields["reason"]) == ("a", error.code, reason)


# --- breaker and token limit ----------------------------------------------------------------------


def new_admission(clock: FakeClock, tokens_per_minute: int | None = None) -> AdmissionControl:
    return AdmissionControl(ScriptedBackend("b"), tokens_per_minute, clock)


def test_every_transition_of_the_breaker_is_logged(debug_log: pytest.LogCaptureFixture) -> None:
    clock = FakeClock(0.0)
    control = new_admission(clock)
    early = control.start("m")
    for request in range(BreakerRule().failures):
        control.failed(control.start("m"), Unreachable("refused"), request)
    control.succeeded(early)
    clock.now += 10
    control.failed(control.start("m"), InvalidResponse("empty"), 0)
    clock.now += 20
    control.succeeded(control.start("m"))
    control.failed(control.start("m"), BadStatus(429, b"", ErrorCode.BACKEND_OVERLOADED, 7.0), 0)
    events = [(one.message, vars(one)["fields"]) for one in debug_log.records]
    breaker = [(event, fields) for event, fields in events if "breaker" in event]
    assert {fields.pop("backend") for _, fields in breaker} == {"b"}
    assert breaker == [
        ("breaker opened", {"cause": "repeated failures", "wait_s": 10.0}),
        ("outcome from before the breaker opened ignored", {}),
        ("breaker trial started", {}),
        ("breaker opened", {"cause": "the trial failed", "wait_s": 20.0}),
        ("breaker trial started", {}),
        ("breaker closed", {}),
        ("breaker opened", {"cause": "the server asked to wait", "wait_s": 7.0}),
    ]


def test_whether_a_failure_counts_is_logged(debug_log: pytest.LogCaptureFixture) -> None:
    control = new_admission(FakeClock(0.0))
    control.failed(control.start("m"), Unreachable("refused"), 0)
    control.failed(control.start("m"), BadStatus(400, b"", ErrorCode.BAD_REQUEST), 0)
    assert fields_of(debug_log, "failure counted") == [
        {"backend": "b", "code": "backend_unreachable"}
    ]
    assert fields_of(debug_log, "failure not counted") == [{"backend": "b", "code": "bad_request"}]


def test_a_used_up_token_limit_is_logged(debug_log: pytest.LogCaptureFixture) -> None:
    control = new_admission(FakeClock(0.0), tokens_per_minute=60)
    control.consume(59)
    assert debug_log.messages == []
    control.consume(2)
    assert fields_of(debug_log, "token limit reached") == [{"backend": "b", "wait_s": 2.0}]


@in_virtual_time
async def test_the_backoff_of_health_checks_is_logged(debug_log: pytest.LogCaptureFixture) -> None:
    backend = ScriptedBackend("a")
    backend.reported_models = Unreachable("refused")
    async with DiscoveryHarness(backend) as harness:
        await harness.discovery.check_all()
    assert fields_of(debug_log, "next health check")[0] == {"backend": "a", "wait_s": 2.0}


# --- content --------------------------------------------------------------------------------------


async def test_debug_log_has_neither_request_nor_response_nor_error_body(
    debug_log: pytest.LogCaptureFixture,
) -> None:
    first, second = ScriptedBackend("a"), ScriptedBackend("b")
    harness = JobsHarness(first, second)
    job = new_job(request=b'{"messages":"a private question"}')
    submit_job(harness.jobs, job)
    overloaded = ErrorCode.BACKEND_OVERLOADED
    error = BadStatus(429, b"a private body", overloaded, 3.0, "a private message")
    (await first.next_run()).fail(error)
    (await second.next_run()).answer(b"a private answer")
    await harness.end(job)
    control = new_admission(FakeClock(0.0))
    control.failed(control.start("m"), error, 0)
    assert {"routes considered", "job admitted", "job failed over", "breaker opened"} <= set(
        debug_log.messages
    )
    assert "private" not in repr([vars(one) for one in debug_log.records])
