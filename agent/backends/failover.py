"""Whether a failed job fails over, and to which backend."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from provider_agent.adapters.base import BackendError
from provider_agent.agent.backends.routing import Route
from provider_agent.protocol.errors import entry_for

MAX_ATTEMPTS: Final = 3
"""The most attempts of a job, without those whose connection could not be opened. Each may cost the
processing of a whole prompt, while the client waits for the first byte."""


class NoFailover(StrEnum):
    """Why a job does not fail over; the value is the text in the debug log."""

    RESPONSE_STARTED = "the response has started"
    ATTEMPTS_EXHAUSTED = "no attempts are left"
    NOT_RETRYABLE = "the error is not retryable"
    NO_BACKEND = "no other backend is available"


def next_route(
    error: BackendError,
    routes: Sequence[Route],
    tried: Sequence[str],
    *,
    unsent: int = 0,
    has_output: bool,
) -> Route | NoFailover:
    """Choose the backend of the next attempt, after an attempt on `tried[-1]` has failed.

    It is the first of `routes` that was not tried yet; else, if `error.retry_here` allows it,
    `tried[-1]` once more. If the job does not fail over, return the reason.

    Args:
        error: the error of the last attempt.
        routes: the backends that may execute the job now, best first.
        tried: backend ids, in the order of the attempts.
        unsent: how many of these attempts ended with `Unreachable`, so that no request was sent.
        has_output: whether the response has started; the job then never fails over.
    """
    if has_output:
        return NoFailover.RESPONSE_STARTED
    if len(tried) - unsent >= MAX_ATTEMPTS:
        return NoFailover.ATTEMPTS_EXHAUSTED
    if not may_be_retried(error):
        return NoFailover.NOT_RETRYABLE
    for route in routes:
        if route.backend_id not in tried:
            return route
    if error.retry_here and tried.count(tried[-1]) == 1:
        for route in routes:
            if route.backend_id == tried[-1]:
                return route
    return NoFailover.NO_BACKEND


def may_be_retried(error: BackendError) -> bool:
    """Whether another attempt may succeed: `error.retryable`, else the error registry's value."""
    return entry_for(error.code).retryable if error.retryable is None else error.retryable
