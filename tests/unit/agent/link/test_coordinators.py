import pytest

from provider_agent.agent.link.backoff import CAP_S, Fatal, Retry
from provider_agent.agent.link.coordinators import Coordinators

A, B, C = "wss://a", "wss://b", "wss://c"
SOON = Retry(0.5, 1, 0.5)
LATER = Retry(900.0, 1, 0.5)
FATAL = Fatal("hint", 0.5)

HEALTHY = "healthy"
DROPPED = "welcomed, then dropped"
NOT_WELCOMED = "not welcomed"

Step = tuple[Retry | Fatal, str, str, float | None]
"""The decision, the link's session, the next address, and the wait before it.

The wait is None if no address is left.
"""


@pytest.mark.parametrize(
    ("urls", "steps"),
    [
        pytest.param(
            [A],
            [(SOON, NOT_WELCOMED, A, 0.5), (LATER, NOT_WELCOMED, A, 900.0)],
            id="a single address",
        ),
        pytest.param([A], [(FATAL, NOT_WELCOMED, A, None)], id="a single unusable address"),
        pytest.param(
            [A, B, C],
            [
                (SOON, NOT_WELCOMED, B, 0.5),
                (SOON, NOT_WELCOMED, C, 0.5),
                (SOON, NOT_WELCOMED, A, 0.5),
            ],
            id="failed attempts rotate",
        ),
        pytest.param(
            [A, B],
            [(SOON, HEALTHY, A, 0.5)] * 3 + [(SOON, NOT_WELCOMED, B, 0.5), (SOON, DROPPED, B, 0.5)],
            id="a session is resumed at its address",
        ),
        pytest.param(
            [A, B],
            [
                (SOON, DROPPED, A, 0.5),
                (SOON, DROPPED, B, 0.5),
                (SOON, NOT_WELCOMED, A, 0.5),
                (SOON, DROPPED, A, 0.5),
                (SOON, HEALTHY, A, 0.5),
                (SOON, DROPPED, A, 0.5),
                (SOON, DROPPED, B, 0.5),
            ],
            id="an address that drops two sessions in a row is abandoned",
        ),
        pytest.param(
            [A],
            [(SOON, DROPPED, A, 0.5)] * 4,
            id="a single coordinator that drops every session is kept",
        ),
        pytest.param(
            [A, B],
            [(Retry(CAP_S, 1, 0.5), HEALTHY, A, CAP_S), (LATER, HEALTHY, B, 0.5)],
            id="a session that expires during the wait is abandoned",
        ),
        pytest.param(
            [A, B],
            [(LATER, NOT_WELCOMED, B, 0.5), (SOON, NOT_WELCOMED, B, 0.5), (SOON, HEALTHY, B, 0.5)],
            id="an address with retry_after is skipped",
        ),
        pytest.param(
            [A, B],
            [(LATER, NOT_WELCOMED, B, 0.5), (Retry(1000.0, 2, 0.5), NOT_WELCOMED, A, 899.5)],
            id="if all have retry_after, the earliest is dialed",
        ),
        pytest.param(
            [A, B, C],
            [
                (SOON, NOT_WELCOMED, B, 0.5),
                (FATAL, NOT_WELCOMED, C, 0.5),
                (SOON, NOT_WELCOMED, A, 0.5),
                (FATAL, HEALTHY, C, 0.5),
                (SOON, NOT_WELCOMED, C, 0.5),
                (FATAL, NOT_WELCOMED, C, None),
            ],
            id="unusable addresses are removed",
        ),
    ],
)
def test_next_address_depends_on_the_decision_and_the_session(
    urls: list[str], steps: list[Step]
) -> None:
    coordinators = Coordinators(urls)
    assert coordinators.current == urls[0]
    now = 1000.0
    for decision, session, following, wait_s in steps:
        waited = coordinators.choose_next(
            decision, now, welcomed=session != NOT_WELCOMED, healthy=session == HEALTHY
        )
        assert (coordinators.current, waited) == (following, wait_s)
        now += waited or 0.0


def test_repr_names_the_current_address() -> None:
    assert repr(Coordinators([A, B])) == "<Coordinators wss://a of 2>"
