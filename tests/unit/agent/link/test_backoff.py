import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider_agent.agent.link.backoff import (
    CAP_S,
    HEALTHY_S,
    REFUSED_S,
    TOLD_MAX_S,
    TOLD_MIN_S,
    Disconnect,
    DisconnectCause,
    Fatal,
    Retry,
    next_attempt,
)

FATAL = {
    DisconnectCause.REJECTED,
    DisconnectCause.INCOMPATIBLE,
    DisconnectCause.BAD_CERTIFICATE,
    DisconnectCause.REPLACED,
}
WAITS = sorted(set(DisconnectCause) - FATAL)


def decide(
    end: DisconnectCause,
    *,
    told_s: float | None = None,
    waited_s: float = 0.0,
    welcomed_s: float | None = None,
    random: float = 0.5,
    finished_job: bool = False,
) -> Retry | Fatal:
    cause = Disconnect(end, "it ended", told_s)
    return next_attempt(cause, waited_s, welcomed_s, lambda: random, finished_job=finished_job)


def wait(
    end: DisconnectCause,
    *,
    told_s: float | None = None,
    waited_s: float = 0.0,
    welcomed_s: float | None = None,
    random: float = 0.5,
) -> float:
    decision = decide(end, told_s=told_s, waited_s=waited_s, welcomed_s=welcomed_s, random=random)
    assert isinstance(decision, Retry)
    return decision.after_s


@pytest.mark.parametrize("end", sorted(FATAL))
@pytest.mark.parametrize("welcomed_s", [None, 1.0])
def test_what_would_end_the_same_way_is_fatal_and_says_what_to_do(
    end: DisconnectCause, welcomed_s: float | None
) -> None:
    decision = decide(end, welcomed_s=welcomed_s)
    assert isinstance(decision, Fatal)
    assert "[coordinator]" in decision.hint or "[identity] key_path" in decision.hint
    assert 0 <= decision.elsewhere_s <= 1.0


@pytest.mark.parametrize(("welcomed_s", "finished_job"), [(HEALTHY_S, False), (1.0, True)])
@pytest.mark.parametrize("end", sorted(FATAL))
def test_only_1002_after_a_session_that_went_well_is_tried_again(
    end: DisconnectCause, welcomed_s: float, finished_job: bool
) -> None:
    # One damaged byte on a link without TLS once stopped an agent for good.
    decision = decide(end, welcomed_s=welcomed_s, finished_job=finished_job)
    assert isinstance(decision, Retry if end is DisconnectCause.INCOMPATIBLE else Fatal)


@pytest.mark.parametrize("end", WAITS)
def test_everything_else_is_tried_again_and_counted(end: DisconnectCause) -> None:
    decision = decide(end, waited_s=3.0)
    assert isinstance(decision, Retry)
    assert decision.waited_s == 3.0 + decision.after_s


@pytest.mark.parametrize("end", [DisconnectCause.LOST, DisconnectCause.BROKEN_PEER])
@pytest.mark.parametrize(
    ("waited_s", "ceiling_s"),
    [(0, 1), (1e-9, 2), (2, 2), (4, 3), (40, 30), (80, 60), (81, 60), (10**6, 60)],
)
def test_full_jitter_up_to_a_ceiling_that_grows_with_what_was_waited(
    end: DisconnectCause, waited_s: float, ceiling_s: float
) -> None:
    assert wait(end, waited_s=waited_s, random=0.0) == 0.0
    assert wait(end, waited_s=waited_s, random=0.999) == pytest.approx(0.999 * ceiling_s)


@given(st.lists(st.floats(0, 1, exclude_max=True), max_size=12))
def test_no_ceiling_is_above_a_doubling_one(randoms: list[float]) -> None:
    waited_s = 0.0
    for attempt, random in enumerate(randoms):
        assert wait(DisconnectCause.LOST, waited_s=waited_s, random=0.999) < min(
            CAP_S, 2.0**attempt
        )
        waited_s += wait(DisconnectCause.LOST, waited_s=waited_s, random=random)


@pytest.mark.parametrize(
    ("end", "told_s", "least_s"),
    [
        (DisconnectCause.TOLD_TO_WAIT, None, 5.0),
        (DisconnectCause.TOLD_TO_WAIT, 0.0, 5.0),
        (DisconnectCause.TOLD_TO_WAIT, 4.9, 5.0),
        (DisconnectCause.TOLD_TO_WAIT, 120.0, 120.0),
        (DisconnectCause.LOST, 30.0, 30.0),
        (DisconnectCause.LOST, 0.0, 5.0),
        (DisconnectCause.LOST, -7.0, 5.0),
        (DisconnectCause.TOLD_TO_WAIT, 1e300, TOLD_MAX_S),
        (DisconnectCause.TOLD_TO_WAIT, math.inf, TOLD_MAX_S),
        (DisconnectCause.TOLD_TO_WAIT, math.nan, TOLD_MIN_S),
    ],
)
def test_a_told_wait_is_kept_from_5_s_to_an_hour_with_jitter_on_top(
    end: DisconnectCause, told_s: float | None, least_s: float
) -> None:
    assert wait(end, told_s=told_s, random=0.0) == least_s
    assert wait(end, told_s=told_s, random=0.999) == pytest.approx(1.999 * least_s)


@pytest.mark.parametrize("waited_s", [0.0, 900.0])
def test_a_refused_token_is_tried_about_once_a_minute(waited_s: float) -> None:
    assert wait(DisconnectCause.UNAUTHORIZED, waited_s=waited_s, random=0.0) == REFUSED_S / 2
    assert wait(DisconnectCause.UNAUTHORIZED, waited_s=waited_s, random=0.999) < REFUSED_S * 1.5


@pytest.mark.parametrize(
    ("told_s", "random", "after_s"),
    [
        (0.0, 0.0, 30.0),
        (10.0, 0.5, 60.0),
        (300.0, 0.0, 300.0),
        (300.0, 0.5, 450.0),
        (1e9, 0.0, TOLD_MAX_S),
        (math.nan, 0.5, 60.0),
    ],
)
def test_a_refused_token_waits_longer_when_told(
    told_s: float, random: float, after_s: float
) -> None:
    assert wait(DisconnectCause.UNAUTHORIZED, told_s=told_s, random=random) == after_s


def test_a_told_time_that_is_no_number_counts_as_none() -> None:
    assert wait(DisconnectCause.LOST, told_s=math.nan, random=0.5) == 0.5


@pytest.mark.parametrize(
    ("end", "told_s"), [(DisconnectCause.UNAUTHORIZED, None), (DisconnectCause.TOLD_TO_WAIT, 900.0)]
)
def test_what_one_coordinator_asks_for_does_not_hold_for_another(
    end: DisconnectCause, told_s: float | None
) -> None:
    decision = decide(end, told_s=told_s, waited_s=4.0, random=0.5)
    assert isinstance(decision, Retry)
    assert decision.elsewhere_s == 1.5
    untold = decide(DisconnectCause.LOST, waited_s=4.0)
    assert isinstance(untold, Retry)
    assert untold.after_s == untold.elsewhere_s == 1.5


@pytest.mark.parametrize(
    ("welcomed_s", "finished_job", "anew"),
    [
        (None, False, False),
        (0.0, False, False),
        (HEALTHY_S - 0.1, False, False),
        (HEALTHY_S, False, True),
        (86_400.0, False, True),
        (0.0, True, True),
        (HEALTHY_S, True, True),
        (None, True, False),  # an old one's job does not make a connection good
    ],
)
def test_only_a_session_that_was_healthy_or_finished_a_job_begins_the_waiting_anew(
    welcomed_s: float | None, finished_job: bool, anew: bool
) -> None:
    decision = decide(
        DisconnectCause.LOST,
        waited_s=40.0,
        welcomed_s=welcomed_s,
        finished_job=finished_job,
        random=0.5,
    )
    assert decision == (Retry(0.5, 0.5, 0.5) if anew else Retry(15.0, 55.0, 15.0))


@given(
    st.sampled_from(WAITS),
    st.none() | st.floats(0, 86_400),
    st.floats(0, 1e9),
    st.none() | st.floats(0, 1e9),
    st.floats(0, 1, exclude_max=True),
)
def test_nobody_waits_above_the_cap_untold(
    end: DisconnectCause,
    told_s: float | None,
    waited_s: float,
    welcomed_s: float | None,
    random: float,
) -> None:
    after_s = wait(end, told_s=told_s, waited_s=waited_s, welcomed_s=welcomed_s, random=random)
    told = min(max(told_s or 0.0, TOLD_MIN_S), TOLD_MAX_S)
    if end is DisconnectCause.UNAUTHORIZED:
        assert (
            max(REFUSED_S / 2, told if told_s else 0) <= after_s <= max(REFUSED_S * 1.5, 2 * told)
        )
    elif told_s is not None or end is DisconnectCause.TOLD_TO_WAIT:
        assert told <= after_s <= 2 * told
    else:
        assert 0 <= after_s <= CAP_S
