import pytest

from provider_agent.agent.link.backoff import CAP_S, Fatal, Retry
from provider_agent.agent.link.coordinators import Coordinators

A, B, C = "wss://a", "wss://b", "wss://c"
SOON = Retry(0.5, 1, 0.5)
LATER = Retry(900.0, 1, 0.5)
FATAL = Fatal("hint", 0.5)

HEALTHY = "healthy"
DROPPED = "welcomed, then dropped"
NO = "not welcomed"

Step = tuple[Retry | Fatal, str, str, float | None]
"""The decision, the link's session, the next address, and the wait before it."""


@pytest.mark.parametrize(
    ("urls", "steps"),
    [
        pytest.param([A], [(SOON, NO, A, 0.5), (LATER, NO, A, 900.0)], id="a single address"),
        pytest.param([A], [(FATAL, NO, A, None)], id="a single unusable address"),
        pytest.param(
            [A, B, C],
            [(SOON, NO, B, 0.5), (SOON, NO, C, 0.5), (SOON, NO, A, 0.5)],
            id="failed attempts rotate",
        ),
        pytest.param(
            [A, B],
            [(SOON, HEALTHY, A, 0.5)] * 3 + [(SOON, NO, B, 0.5), (SOON, DROPPED, B, 0.5)],
            id="a session is resumed at its address",
        ),
        pytest.param(
            [A, B],
            [
                (SOON, DROPPED, A, 0.5),
                (SOON, DROPPED, B, 0.5),
                (SOON, NO, A, 0.5),
                (SOON, DROPPED, A, 0.5),
                (SOON, HEALTHY, A, 0.5),
                (SOON, DROPPED, A, 0.5),
                (SOON, DROPPED, B, 0.5),
            ],
            id="a coordinator that welcomes and drops twice is left",
        ),
        pytest.param([A], [(SOON, DROPPED, A, 0.5)] * 4, id="unless there is no other"),
        pytest.param(
            [A, B],
            [(Retry(CAP_S, 1, 0.5), HEALTHY, A, CAP_S), (LATER, HEALTHY, B, 0.5)],
            id="unless it will have expired",
        ),
        pytest.param(
            [A, B],
            [(LATER, NO, B, 0.5), (SOON, NO, B, 0.5), (SOON, HEALTHY, B, 0.5)],
            id="an address with retry_after is skipped",
        ),
        pytest.param(
            [A, B],
            [(LATER, NO, B, 0.5), (Retry(1000.0, 2, 0.5), NO, A, 899.5)],
            id="all with retry_after: the earliest",
        ),
        pytest.param(
            [A, B, C],
            [
                (SOON, NO, B, 0.5),
                (FATAL, NO, C, 0.5),
                (SOON, NO, A, 0.5),
                (FATAL, HEALTHY, C, 0.5),
                (SOON, NO, C, 0.5),
                (FATAL, NO, C, None),
            ],
            id="unusable addresses are removed",
        ),
    ],
)
def test_order_of_addresses(urls: list[str], steps: list[Step]) -> None:
    coordinators = Coordinators(urls)
    assert coordinators.current == urls[0]
    now = 1000.0
    for decision, session, following, wait_s in steps:
        waited = coordinators.choose_next(
            decision, now, welcomed=session != NO, healthy=session == HEALTHY
        )
        assert (coordinators.current, waited) == (following, wait_s)
        now += waited or 0.0


def test_repr_names_the_current_address() -> None:
    assert repr(Coordinators([A, B])) == "<Coordinators wss://a of 2>"
