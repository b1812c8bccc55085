import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.agent.link.backoff import (
    CAP_S,
    HEALTHY_S,
    MAX_RETRY_AFTER_S,
    MIN_RETRY_AFTER_S,
    UNAUTHORIZED_S,
    Disconnect,
    DisconnectCause,
    Fatal,
    Retry,
    next_attempt,
)

FATAL = {
    DisconnectCause.REJECTED,
    DisconnectCause.BAD_SIGNATURE,
    DisconnectCause.INCOMPATIBLE,
    DisconnectCause.REPLACED,
    DisconnectCause.KEY_IN_USE,
}
RETRIED = sorted(set(DisconnectCause) - FATAL)


def decide(
    cause: DisconnectCause,
    *,
    retry_after_s: float | None = None,
    waited_s: float = 0.0,
    welcomed_s: float | None = None,
    random: float = 0.5,
    worked: bool = False,
    welcomed_before: bool = False,
    hello_unanswered: bool = False,
) -> Retry | Fatal:
    disconnect = Disconnect(cause, "it ended", retry_after_s)
    return next_attempt(
        disconnect,
        waited_s,
        welcomed_s,
        lambda: random,
        worked=worked,
        welcomed_before=welcomed_before,
        hello_unanswered=hello_unanswered,
    )


def wait(
    cause: DisconnectCause,
    *,
    retry_after_s: float | None = None,
    waited_s: float = 0.0,
    welcomed_s: float | None = None,
    random: float = 0.5,
) -> float:
    decision = decide(
        cause, retry_after_s=retry_after_s, waited_s=waited_s, welcomed_s=welcomed_s, random=random
    )
    assert isinstance(decision, Retry)
    return decision.after_s


@pytest.mark.parametrize("cause", sorted(FATAL))
def test_fatal_causes_are_not_retried_and_come_with_a_hint(cause: DisconnectCause) -> None:
    decision = decide(cause)
    assert isinstance(decision, Fatal)
    assert "[coordinator]" in decision.hint or "[identity] key_path" in decision.hint
    assert 0 <= decision.elsewhere_s <= 1.0


@pytest.mark.parametrize(("welcomed_s", "welcomed_before"), [(0.0, False), (None, True)])
@pytest.mark.parametrize("cause", sorted(FATAL))
def test_of_the_fatal_causes_only_1002_is_retried_after_a_welcome(
    cause: DisconnectCause, welcomed_s: float | None, welcomed_before: bool
) -> None:
    # In an earlier version, one damaged byte on a link without TLS stopped the agent permanently:
    # the coordinator closed the link with 1002, and the agent did not dial again.
    decision = decide(cause, welcomed_s=welcomed_s, welcomed_before=welcomed_before)
    assert isinstance(decision, Retry if cause is DisconnectCause.INCOMPATIBLE else Fatal)


def test_replacement_is_retried_while_a_late_hello_of_this_process_may_be_its_cause() -> None:
    decision = decide(DisconnectCause.REPLACED, welcomed_s=1.0, hello_unanswered=True)
    assert isinstance(decision, Retry)
    assert isinstance(decide(DisconnectCause.KEY_IN_USE, hello_unanswered=True), Fatal)


@pytest.mark.parametrize("cause", RETRIED)
def test_causes_that_are_not_fatal_are_retried_and_their_waits_add_up(
    cause: DisconnectCause,
) -> None:
    decision = decide(cause, waited_s=3.0)
    assert isinstance(decision, Retry)
    assert decision.waited_s == 3.0 + decision.after_s


@pytest.mark.parametrize("cause", [DisconnectCause.LOST, DisconnectCause.BROKEN_PEER])
@pytest.mark.parametrize(
    ("waited_s", "ceiling_s"),
    [(0, 1), (1e-9, 2), (2, 2), (4, 3), (40, 30), (80, 60), (81, 60), (10**6, 60)],
)
def test_wait_is_random_up_to_a_ceiling_that_grows_with_the_time_already_waited(
    cause: DisconnectCause, waited_s: float, ceiling_s: float
) -> None:
    assert wait(cause, waited_s=waited_s, random=0.0) == 0.0
    assert wait(cause, waited_s=waited_s, random=0.999) == pytest.approx(0.999 * ceiling_s)


@given(st.lists(st.floats(0, 1, exclude_max=True), max_size=12))
def test_ceiling_stays_below_that_of_exponential_backoff(randoms: list[float]) -> None:
    waited_s = 0.0
    for attempt, random in enumerate(randoms):
        assert wait(DisconnectCause.LOST, waited_s=waited_s, random=0.999) < min(
            CAP_S, 2.0**attempt
        )
        waited_s += wait(DisconnectCause.LOST, waited_s=waited_s, random=random)


@pytest.mark.parametrize(
    ("cause", "retry_after_s", "least_s"),
    [
        (DisconnectCause.TOLD_TO_WAIT, None, 5.0),
        (DisconnectCause.TOLD_TO_WAIT, 0.0, 5.0),
        (DisconnectCause.TOLD_TO_WAIT, 4.9, 5.0),
        (DisconnectCause.TOLD_TO_WAIT, 120.0, 120.0),
        (DisconnectCause.LOST, 30.0, 30.0),
        (DisconnectCause.LOST, 0.0, 5.0),
        (DisconnectCause.LOST, -7.0, 5.0),
        (DisconnectCause.TOLD_TO_WAIT, 1e300, MAX_RETRY_AFTER_S),
        (DisconnectCause.TOLD_TO_WAIT, math.inf, MAX_RETRY_AFTER_S),
        (DisconnectCause.TOLD_TO_WAIT, math.nan, MIN_RETRY_AFTER_S),
    ],
)
def test_retry_after_is_honored_from_5_s_to_an_hour_with_jitter_on_top(
    cause: DisconnectCause, retry_after_s: float | None, least_s: float
) -> None:
    assert wait(cause, retry_after_s=retry_after_s, random=0.0) == least_s
    assert wait(cause, retry_after_s=retry_after_s, random=0.999) == pytest.approx(1.999 * least_s)


@pytest.mark.parametrize("waited_s", [0.0, 900.0])
def test_a_refused_token_is_retried_about_once_a_minute(waited_s: float) -> None:
    assert wait(DisconnectCause.UNAUTHORIZED, waited_s=waited_s, random=0.0) == UNAUTHORIZED_S / 2
    assert (
        wait(DisconnectCause.UNAUTHORIZED, waited_s=waited_s, random=0.999) < UNAUTHORIZED_S * 1.5
    )


@pytest.mark.parametrize(
    ("retry_after_s", "random", "after_s"),
    [
        (0.0, 0.0, 30.0),
        (10.0, 0.5, 60.0),
        (300.0, 0.0, 300.0),
        (300.0, 0.5, 450.0),
        (1e9, 0.0, MAX_RETRY_AFTER_S),
        (math.nan, 0.5, 60.0),
    ],
)
def test_a_refused_token_honors_a_longer_retry_after(
    retry_after_s: float, random: float, after_s: float
) -> None:
    assert wait(DisconnectCause.UNAUTHORIZED, retry_after_s=retry_after_s, random=random) == after_s


def test_retry_after_that_is_not_a_number_is_ignored() -> None:
    assert wait(DisconnectCause.LOST, retry_after_s=math.nan, random=0.5) == 0.5


@pytest.mark.parametrize(
    ("cause", "retry_after_s"),
    [(DisconnectCause.UNAUTHORIZED, None), (DisconnectCause.TOLD_TO_WAIT, 900.0)],
)
def test_retry_after_of_one_coordinator_does_not_apply_to_another(
    cause: DisconnectCause, retry_after_s: float | None
) -> None:
    decision = decide(cause, retry_after_s=retry_after_s, waited_s=4.0, random=0.5)
    assert isinstance(decision, Retry)
    assert decision.elsewhere_s == 1.5
    without = decide(DisconnectCause.LOST, waited_s=4.0)
    assert isinstance(without, Retry)
    assert without.after_s == without.elsewhere_s == 1.5


@pytest.mark.parametrize(
    ("welcomed_s", "worked", "resets"),
    [
        (None, False, False),
        (0.0, False, False),
        (HEALTHY_S - 0.1, False, False),
        (HEALTHY_S, False, True),
        (86_400.0, False, True),
        (0.0, True, True),
        (HEALTHY_S, True, True),
        (None, True, False),  # a job of an earlier session proves nothing about this connection
    ],
)
def test_a_healthy_session_or_a_served_job_resets_the_time_already_waited(
    welcomed_s: float | None, worked: bool, resets: bool
) -> None:
    decision = decide(
        DisconnectCause.LOST,
        waited_s=40.0,
        welcomed_s=welcomed_s,
        worked=worked,
        random=0.5,
    )
    assert decision == (Retry(0.5, 0.5, 0.5) if resets else Retry(15.0, 55.0, 15.0))


@given(
    st.sampled_from(RETRIED),
    st.none() | st.floats(0, 86_400),
    st.floats(0, 1e9),
    st.none() | st.floats(0, 1e9),
    st.floats(0, 1, exclude_max=True),
)
def test_only_a_retry_after_or_a_refused_token_can_exceed_the_cap(
    cause: DisconnectCause,
    retry_after_s: float | None,
    waited_s: float,
    welcomed_s: float | None,
    random: float,
) -> None:
    after_s = wait(
        cause, retry_after_s=retry_after_s, waited_s=waited_s, welcomed_s=welcomed_s, random=random
    )
    bounded_retry_after_s = min(max(retry_after_s or 0.0, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)
    if cause is DisconnectCause.UNAUTHORIZED:
        assert (
            max(UNAUTHORIZED_S / 2, bounded_retry_after_s if retry_after_s else 0)
            <= after_s
            <= max(UNAUTHORIZED_S * 1.5, 2 * bounded_retry_after_s)
        )
    elif retry_after_s is not None or cause is DisconnectCause.TOLD_TO_WAIT:
        assert bounded_retry_after_s <= after_s <= 2 * bounded_retry_after_s
    else:
        assert 0 <= after_s <= CAP_S
