"""An attempt reports its first outcome, to admission control and to `on_settled`."""

from collections.abc import Callable

import pytest

from provider_agent.adapters.base import Unreachable
from provider_agent.agent.backends.admission import Check
from provider_agent.agent.backends.attempt import Attempt
from tests.kit.jobs_harness import RecordingAdmission
from tests.kit.scripted_backend import ScriptedBackend

SETTLEMENTS: list[tuple[Callable[[Attempt], None], tuple[str, str, int]]] = [
    (lambda attempt: attempt.succeeded(7), ("a", "succeeded", 7)),
    (lambda attempt: attempt.failed(Unreachable("refused")), ("a", "backend_unreachable", 0)),
    (lambda attempt: attempt.abandoned(), ("a", "abandoned", 0)),
]


class RecheckingAdmission(RecordingAdmission):
    """Requests a health check after every failure."""

    def failed(self, admitted: object, error: object, request: int) -> Check:
        return Check.HEALTH


@pytest.mark.parametrize(("settle", "outcome"), SETTLEMENTS)
async def test_only_the_first_settlement_counts(
    settle: Callable[[Attempt], None], outcome: tuple[str, str, int]
) -> None:
    outcomes: list[tuple[str, str, int]] = []
    checks: list[Check] = []
    backend = ScriptedBackend("a")
    attempt = Attempt(backend, RecordingAdmission(backend, outcomes), "m", checks.append)
    assert outcomes == [("a", "started", 0)]
    assert repr(attempt) == "<Attempt on a running>"

    settle(attempt)
    for settle_again, _ in SETTLEMENTS:
        settle_again(attempt)

    assert outcomes == [("a", "started", 0), outcome]
    assert checks == [Check.NOTHING]
    assert repr(attempt) == "<Attempt on a settled>"


async def test_a_failure_reports_what_to_check() -> None:
    checks: list[Check] = []
    backend = ScriptedBackend("a")

    attempt = Attempt(backend, RecheckingAdmission(backend, []), "m", checks.append)
    attempt.failed(Unreachable("refused"))

    assert checks == [Check.HEALTH]
