import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.adapters.base import BackendError, BadStatus
from provider_agent.agent.backends.routing import Refusal, RefusalReason
from provider_agent.agent.jobs.ends import (
    JobReport,
    backend_error_end,
    error_end,
    refusal_end,
)
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import JobEnd
from provider_agent.protocol.limits import MAX_ERROR_BODY_BYTES, MAX_TEXT_CHARS, MIB
from tests.kit.jobs import new_job

REPORT = JobReport(new_job().job_id, 5)


def survives_codec(end: JobEnd) -> bool:
    """Return whether the coordinator can decode the end; otherwise it would close the link."""
    return VERSION_1.decode_from_agent(VERSION_1.encode([end]), 4 * MIB).frames == [end]


@given(
    st.integers(-(10**6), 10**6),
    st.text(max_size=20),
    st.one_of(st.none(), st.floats()),
    st.sampled_from(ErrorCode),
)
def test_any_backend_error_becomes_a_valid_end(
    status: int, text: str, retry_after_s: float | None, code: ErrorCode
) -> None:
    # In an earlier version, a wait of 1e300 s or NaN ended the link, and with it every job.
    assert survives_codec(
        backend_error_end(REPORT, BadStatus(status, b"no", code, retry_after_s, text))
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
    assert backend_error_end(REPORT, error).retry_after_ms == expected_ms
    refusal = Refusal(RefusalReason.AGENT_FULL, "full", wait_s)
    assert refusal_end(REPORT, refusal).retry_after_ms == expected_ms


def test_the_servers_retryable_flag_overrides_the_default_of_the_error_code() -> None:
    error = BackendError("odd")
    assert backend_error_end(REPORT, error).retryable is True
    error.retryable = False
    assert backend_error_end(REPORT, error).retryable is False


def test_long_texts_and_bodies_are_truncated() -> None:
    error = BadStatus(500, bytes(2 * MAX_ERROR_BODY_BYTES), ErrorCode.INTERNAL, None, "x" * 99999)
    end = backend_error_end(REPORT, error)
    assert (len(end.body), len(end.message)) == (MAX_ERROR_BODY_BYTES, MAX_TEXT_CHARS)
    assert survives_codec(end)
    assert len(error_end(REPORT, ErrorCode.CANCELLED, "x" * 99999).message) == MAX_TEXT_CHARS
