import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.base import BackendError, BadStatus
from provider_agent.agent.backends.routing import Refusal
from provider_agent.agent.jobs.ends import (
    backend_error_end,
    count_from_arrival,
    error_end,
    refusal_end,
    validate_result,
)
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import JobEnd, JobResult, Usage
from provider_agent.protocol.limits import MAX_ERROR_BODY_BYTES, MAX_TEXT_CHARS, MIB
from tests.kit.jobs import new_job

JOB = new_job()
USAGE = Usage(3, 4)


def survives_codec(end: JobEnd) -> bool:
    """Whether the coordinator can decode the end, as it must to keep the link open."""
    return VERSION_1.decode_from_agent(VERSION_1.encode([end]), 4 * MIB).frames == [end]


def result(
    usage: Usage = USAGE, duration_ms: int = 20, first_byte_ms: int | None = 10
) -> JobResult:
    return JobResult(JOB.job_id, 7, usage, "b", duration_ms, first_byte_ms)


@given(
    st.integers(-(10**6), 10**6),
    st.text(max_size=20),
    st.one_of(st.none(), st.floats()),
    st.sampled_from(ErrorCode),
)
def test_any_backend_error_becomes_a_valid_end(
    status: int, text: str, retry_after_s: float | None, code: ErrorCode
) -> None:
    # A wait of 1e300 s or NaN once ended the link for every job.
    assert survives_codec(
        backend_error_end(JOB.job_id, 5, BadStatus(status, b"no", code, retry_after_s, text))
    )


@pytest.mark.parametrize(
    ("wait_s", "expected_ms"),
    [
        (None, None),
        (0.0, 0),
        (2.5, 2500),
        (-1.0, 0),
        (1e300, 86_400_000),
        (math.inf, None),
        (math.nan, None),
    ],
)
def test_retry_after_is_bounded(wait_s: float | None, expected_ms: int | None) -> None:
    error = BadStatus(429, b"", ErrorCode.BACKEND_OVERLOADED, wait_s)
    assert backend_error_end(JOB.job_id, 0, error).retry_after_ms == expected_ms
    refusal = Refusal(ErrorCode.OUT_OF_CAPACITY, "full", wait_s)
    assert refusal_end(JOB.job_id, refusal).retry_after_ms == expected_ms


def test_the_servers_retryable_flag_overrides_the_registry() -> None:
    error = BackendError("odd")
    assert backend_error_end(JOB.job_id, 0, error).retryable is True
    error.retryable = False
    assert backend_error_end(JOB.job_id, 0, error).retryable is False


def test_long_texts_and_bodies_are_truncated() -> None:
    endless = BadStatus(500, bytes(2 * MAX_ERROR_BODY_BYTES), ErrorCode.INTERNAL, None, "x" * 99999)
    end = backend_error_end(JOB.job_id, 0, endless)
    assert (len(end.body), len(end.message)) == (MAX_ERROR_BODY_BYTES, MAX_TEXT_CHARS)
    assert survives_codec(end)
    assert len(error_end(JOB.job_id, 0, ErrorCode.CANCELLED, "x" * 99999).message) == MAX_TEXT_CHARS


huge = st.one_of(st.none(), st.integers(-(10**30), 10**30))


@given(huge, huge, st.integers(-(10**30), 10**30), huge)
def test_invalid_counts_become_unknown(
    input_tokens: int | None, output_tokens: int | None, duration_ms: int, first_ms: int | None
) -> None:
    invalid = result(
        Usage(input_tokens, output_tokens),
        duration_ms=duration_ms,
        first_byte_ms=first_ms,
    )
    assert survives_codec(validate_result(JOB.job_id, 7, invalid))


def test_valid_counts_are_kept() -> None:
    assert validate_result(JOB.job_id, 7, result()) == result()


@pytest.mark.parametrize("total_bytes", [6, 8])
def test_a_result_with_a_wrong_byte_count_or_job_id_is_rejected(total_bytes: int) -> None:
    with pytest.raises(ValueError, match="does not match"):
        validate_result(JOB.job_id, total_bytes, result())
    with pytest.raises(ValueError, match="does not match"):
        validate_result(new_job().job_id, 7, result())


def test_times_of_a_result_count_from_the_arrival_of_the_job() -> None:
    assert count_from_arrival(result(), 0.0) == result()
    assert count_from_arrival(result(), 1.5) == result(duration_ms=1520, first_byte_ms=1510)
    assert count_from_arrival(result(first_byte_ms=None), 1.5).first_byte_ms is None
