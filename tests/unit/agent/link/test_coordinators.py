import pytest

from provider_agent.agent.link.backoff import CAP_S, Fatal, Retry
from provider_agent.agent.link.coordinators import Coordinators

A, B, C = "wss://a", "wss://b", "wss://c"
SOON = Retry(0.5, 1, 0.5)
LATER = Retry(900.0, 1, 0.5)
FATAL = Fatal("hint", 0.5)

Step = tuple[Retry | Fatal, bool, str, float | None]
"""The decision, whether the link was welcomed, the next address, and the wait before it."""


@pytest.mark.parametrize(
    ("urls", "steps"),
    [
        pytest.param([A], [(SOON, False, A, 0.5), (LATER, False, A, 900.0)], id="a single address"),
        pytest.param([A], [(FATAL, False, A, None)], id="a single unusable address"),
        pytest.param(
            [A, B, C],
            [(SOON, False, B, 0.5), (SOON, False, C, 0.5), (SOON, False, A, 0.5)],
            id="failed attempts rotate",
        ),
        pytest.param(
            [A, B],
            [(SOON, True, A, 0.5), (SOON, False, B, 0.5), (SOON, True, B, 0.5)],
            id="a session is resumed at its address",
        ),
        pytest.param(
            [A, B],
            [(Retry(CAP_S, 1, 0.5), True, A, CAP_S), (LATER, True, B, 0.5)],
            id="unless it will have expired",
        ),
        pytest.param(
            [A, B],
            [(LATER, False, B, 0.5), (SOON, False, B, 0.5), (SOON, True, B, 0.5)],
            id="an address with retry_after is skipped",
        ),
        pytest.param(
            [A, B],
            [(LATER, False, B, 0.5), (Retry(1000.0, 2, 0.5), False, A, 899.5)],
            id="all with retry_after: the earliest",
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
            id="unusable addresses are removed",
        ),
    ],
)
def test_order_of_addresses(urls: list[str], steps: list[Step]) -> None:
    coordinators = Coordinators(urls)
    assert coordinators.current == urls[0]
    now = 1000.0
    for decision, welcomed, following, wait_s in steps:
        waited = coordinators.choose_next(decision, now, welcomed=welcomed)
        assert (coordinators.current, waited) == (following, wait_s)
        now += waited or 0.0


def test_repr_names_the_current_address() -> None:
    assert repr(Coordinators([A, B])) == "<Coordinators wss://a of 2>"
