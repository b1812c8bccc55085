import math

import pytest

from bench.reconnect import AGENTS, OUTAGES, PICTURE, SEED
from bench.reconnect_picture import draw
from bench.reconnect_simulation import (
    LOST,
    RESTART,
    Course,
    Door,
    Outage,
    drained,
    peak_per_s,
    simulate,
)
from provider_agent.agent.link.backoff import TOLD_MIN_S, Disconnect

FLEET = 1_000


@pytest.fixture(scope="module")
def courses() -> list[tuple[Outage, Course]]:
    return [(outage, simulate(outage, AGENTS, SEED)) for outage in OUTAGES]


def test_no_second_is_above_three_times_the_mean(courses: list[tuple[Outage, Course]]) -> None:
    ratios = {
        outage.name: peak_per_s(course.connections) / course.mean_per_s
        for outage, course in courses
    }
    assert max(ratios.values()) <= 3, ratios


def test_the_picture_is_what_the_code_draws(courses: list[tuple[Outage, Course]]) -> None:
    drawn = draw(courses)
    assert drawn == PICTURE.read_text(encoding="utf-8"), "run `make reconnect`"


@pytest.mark.parametrize("outage", OUTAGES, ids=lambda outage: outage.name)
def test_every_agent_comes_back_once_and_not_before_the_coordinator(outage: Outage) -> None:
    course = simulate(outage, FLEET, seed=1)
    assert len(course.connections) == FLEET
    assert min(course.arrivals) >= outage.back_s
    assert len(course.dials) >= len(course.arrivals) >= FLEET
    for moments in (course.dials, course.arrivals, course.connections):
        assert moments == sorted(moments)


def test_one_seed_gives_one_course() -> None:
    outage = Outage("crash", LOST, 5)
    assert simulate(outage, FLEET, seed=1) == simulate(outage, FLEET, seed=1)
    assert simulate(outage, FLEET, seed=1) != simulate(outage, FLEET, seed=2)


@pytest.mark.parametrize(("ended", "least_s"), [(RESTART, TOLD_MIN_S), (drained(30), 30)])
def test_a_told_wait_is_kept_and_spread_over_as_long_again(
    ended: Disconnect, least_s: float
) -> None:
    course = simulate(Outage("told", ended, 0), FLEET, seed=1)
    assert course.dials == course.connections
    assert least_s <= course.dials[0] < course.dials[-1] <= 2 * least_s
    assert course.dials[-1] - course.dials[0] > 0.9 * least_s


@pytest.mark.parametrize("retry_after_s", [None, 5.0])
def test_a_door_never_opens_more_often_than_it_says(retry_after_s: float | None) -> None:
    door = Door(50, retry_after_s)
    course = simulate(Outage("door", LOST, 0, door=door), FLEET, seed=1)
    assert peak_per_s(course.connections) == 50
    assert len(course.arrivals) > FLEET
    assert course.connections[-1] >= FLEET / 50 - 1


@pytest.mark.parametrize(
    ("moments", "peak"),
    [
        ([], 0),
        ([3.0], 1),
        ([0.0, 1.0, 2.0], 1),
        ([0.9, 1.0, 1.1, 1.8], 4),  # over the turn of a second
        ([0.0, 0.5, 1.4, 1.45, 5.0], 3),
    ],
)
def test_the_peak_is_of_any_second(moments: list[float], peak: int) -> None:
    assert peak_per_s(moments) == peak


@pytest.mark.parametrize(
    ("connections", "mean_per_s"),
    [([0.1, 0.2, 0.3], 3.0), ([10.0, 11.0, 14.0], 0.75), ([7.0], 1.0)],
)
def test_the_mean_is_from_the_first_connection_to_the_last(
    connections: list[float], mean_per_s: float
) -> None:
    assert math.isclose(Course([], [], connections).mean_per_s, mean_per_s)
