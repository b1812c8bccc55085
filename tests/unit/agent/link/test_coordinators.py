import pytest

from provider_agent.agent.link.backoff import CAP_S, Fatal, Retry
from provider_agent.agent.link.coordinators import Coordinators

A, B, C = "wss://a", "wss://b", "wss://c"
SOON = Retry(0.5, 1, 0.5)
TOLD = Retry(900.0, 1, 0.5)
FATAL = Fatal("look", 0.5)

Step = tuple[Retry | Fatal, bool, str, float | None]
"""How a link ended, whether it was welcomed; the address that is next and the wait before it."""


@pytest.mark.parametrize(
    ("urls", "steps"),
    [
        pytest.param([A], [(SOON, False, A, 0.5), (TOLD, False, A, 900.0)], id="a single address"),
        pytest.param([A], [(FATAL, False, A, None)], id="a single one of no use"),
        pytest.param(
            [A, B, C],
            [(SOON, False, B, 0.5), (SOON, False, C, 0.5), (SOON, False, A, 0.5)],
            id="failed attempts go round",
        ),
        pytest.param(
            [A, B],
            [(SOON, True, A, 0.5), (SOON, False, B, 0.5), (SOON, True, B, 0.5)],
            id="a lost session is looked for where it was",
        ),
        pytest.param(
            [A, B],
            [(Retry(CAP_S, 1, 0.5), True, A, CAP_S), (TOLD, True, B, 0.5)],
            id="unless it will be gone by then",
        ),
        pytest.param(
            [A, B],
            [(TOLD, False, B, 0.5), (SOON, False, B, 0.5), (SOON, True, B, 0.5)],
            id="one that told to wait is passed over",
        ),
        pytest.param(
            [A, B],
            [(TOLD, False, B, 0.5), (Retry(1000.0, 2, 0.5), False, A, 899.5)],
            id="when all told to wait, the first to be ready",
        ),
        pytest.param(
            [A, B, C],
            [
                (SOON, False, B, 0.5),
                (FATAL, False, C, 0.5),
                (SOON, False, A, 0.5),
                (FATAL, True, C, 0.5),
                (SOON, False, C, 0.5),
                (FATAL, False, C, None),
            ],
            id="what is of no use is left out",
        ),
    ],
)
def test_the_turns(urls: list[str], steps: list[Step]) -> None:
    coordinators = Coordinators(urls)
    assert coordinators.current == urls[0]
    now = 1000.0
    for decision, welcomed, following, wait_s in steps:
        waited = coordinators.ended(decision, now, welcomed=welcomed)
        assert (coordinators.current, waited) == (following, wait_s)
        now += waited or 0.0


def test_it_tells_where_it_stands() -> None:
    assert repr(Coordinators([A, B])) == "<Coordinators wss://a of 2>"
