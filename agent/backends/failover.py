"""Whether a failed job goes on elsewhere, and where. A pure decision."""

from collections.abc import Sequence
from typing import Final

from provider_agent.adapters.base import BackendError
from provider_agent.agent.backends.routing import Route
from provider_agent.protocol.errors import entry_for

MAX_ATTEMPTS: Final = 3
"""Each attempt may cost a whole prefill, and the client waits for the first byte meanwhile."""


def next_route(
    error: BackendError, routes: Sequence[Route], tried: Sequence[str], *, has_output: bool
) -> Route | None:
    """The next backend for a job that has just failed on `tried[-1]`; None: it has failed for good.

    Args:
        error: how it failed.
        routes: who may run it now, best first.
        tried: backend ids, in the order of the attempts.
        has_output: whether a byte of output has been relayed; then nothing is repeated.
    """
    if has_output or len(tried) >= MAX_ATTEMPTS or not may_be_retried(error):
        return None
    untried = next((route for route in routes if route.backend_id not in tried), None)
    if untried is not None:
        return untried
    again = error.retry_here and tried.count(tried[-1]) == 1
    return next((r for r in routes if again and r.backend_id == tried[-1]), None)


def may_be_retried(error: BackendError) -> bool:
    """Whether another backend or provider may be tried: the server's word, else the registry's."""
    return entry_for(error.code).retryable if error.retryable is None else error.retryable
