"""A fleet of agents comes back after its coordinator was away, as the real backoff decides.

Discrete events, no clock, seeded randomness: the same seed gives the same course.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heapreplace
from random import Random
from typing import Final

from msgspec import Struct

from provider_agent.agent.link.backoff import (
    HEALTHY_S,
    Disconnect,
    DisconnectCause,
    Retry,
    next_attempt,
)

LOST: Final = Disconnect(DisconnectCause.LOST, "the connection broke")
RESTART: Final = Disconnect(
    DisconnectCause.TOLD_TO_WAIT, "the coordinator closed the connection: 1012"
)
NOBODY: Final = Disconnect(DisconnectCause.LOST, "connection refused")


class Door(Struct, frozen=True):
    """A coordinator that opens only so many connections a second, and answers 503 to the others.

    Attributes:
        per_s: connections it opens in any one second.
        retry_after_s: what it tells all others; None: each its own place in the queue.
    """

    per_s: int
    retry_after_s: float | None = None


class Outage(Struct, frozen=True):
    """What happens to the fleet; every link ends at second 0.

    Attributes:
        name: for people.
        ended: how the links end.
        back_s: when the coordinator can be reached again.
        away: how a dial ends before that.
        door: how the coordinator guards itself afterwards; None: everybody is welcome.
    """

    name: str
    ended: Disconnect
    back_s: float
    away: Disconnect = NOBODY
    door: Door | None = None


class Course(Struct, frozen=True):
    """What happened, in seconds since the links ended; every list ascends.

    Attributes:
        dials: every attempt, whoever answered it or nobody.
        arrivals: the attempts that reached the coordinator, refused ones too.
        connections: the attempts that it welcomed.
    """

    dials: list[float]
    arrivals: list[float]
    connections: list[float]

    @property
    def mean_per_s(self) -> float:
        """Connections per second from the first one to the last; less than a second counts as one.

        The strict choice: one straggler lowers it, and nothing before or after raises it.
        """
        return len(self.connections) / max(1.0, self.connections[-1] - self.connections[0])


def peak_per_s(moments: Sequence[float]) -> int:
    """The most in any one second, wherever that second begins."""
    peak = 0
    first = 0
    for last, moment in enumerate(moments):
        while moment - moments[first] >= 1.0:
            first += 1
        peak = max(peak, last - first + 1)
    return peak


def told(seconds: float) -> Disconnect:
    """A 503 whose `Retry-After` says so; whole seconds, as HTTP has them."""
    return Disconnect(DisconnectCause.TOLD_TO_WAIT, "HTTP status 503", float(math.ceil(seconds)))


def drained(reconnect_after_s: float) -> Disconnect:
    """The link of an agent without jobs, after `Drain`."""
    return Disconnect(
        DisconnectCause.TOLD_TO_WAIT, "the coordinator is going away", reconnect_after_s
    )


def simulate(outage: Outage, agents: int, seed: int) -> Course:
    """Let the fleet come back.

    A dial takes no time, which is the worst case: nothing but the policy spreads the fleet.
    """
    uniform = Random(seed).random
    course = Course([], [], [])
    answer = _answers(outage, course)
    first = [_decide(outage.ended, 0.0, HEALTHY_S, uniform) for _ in range(agents)]
    # When, who, and how long it has waited; the number keeps equal moments in one order.
    due = [(retry.after_s, agent, retry.waited_s) for agent, retry in enumerate(first)]
    heapify(due)
    while due:
        now, agent, waited_s = due[0]
        course.dials.append(now)
        end = answer(now)
        if end is None:
            heappop(due)
        else:
            retry = _decide(end, waited_s, None, uniform)
            heapreplace(due, (now + retry.after_s, agent, retry.waited_s))
    return course


def _answers(outage: Outage, course: Course) -> Callable[[float], Disconnect | None]:
    """What a dial meets: how it ended, or None when it was welcomed."""
    door = outage.door
    latest: deque[float] = deque(maxlen=door.per_s if door else 0)
    in_queue = 0

    def answer(now: float) -> Disconnect | None:
        nonlocal in_queue
        if now < outage.back_s:
            return outage.away
        course.arrivals.append(now)
        if door is not None:
            if len(latest) == door.per_s and now - latest[0] < 1.0:
                in_queue += 1
                place = in_queue / door.per_s
                return told(place if door.retry_after_s is None else door.retry_after_s)
            latest.append(now)
        course.connections.append(now)
        return None

    return answer


def _decide(
    end: Disconnect, waited_s: float, welcomed_s: float | None, uniform: Callable[[], float]
) -> Retry:
    decision = next_attempt(end, waited_s, welcomed_s, uniform)
    assert isinstance(decision, Retry), "nothing here is final"
    return decision
