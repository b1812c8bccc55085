"""Sends each request to an agent, or lets it wait until an agent has room.

The choice (`routing`) and the queue (`waiting_requests`) are pure; this module adds futures, a
timer and the time limit.
"""

import asyncio
import itertools
import math
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from provider_agent.coordinator.agents.decaying_counts import DecayingCounts
from provider_agent.coordinator.agents.fleet import Fleet
from provider_agent.coordinator.agents.waiting_requests import WaitingRequests, Wanted
from provider_agent.coordinator.reason import Reason
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.job import Job

RECHECK_S: Final = 0.5
"""How often the queue is checked for changes that no event reports: a refusal that is over, or a
send queue that has become shorter."""

RATE_S: Final = 60.0
"""`Retry-After` is estimated from the jobs that ended in about this time."""

UNKNOWN_RETRY_S: Final = 30
"""`Retry-After` when no job of the model has ended lately: its jobs take long."""

MAX_RETRY_S: Final = 120
"""The longest `Retry-After`: within two minutes, agents come and go."""


class NoAgent(Struct, frozen=True):
    """Why a request was sent to no agent.

    Attributes:
        reason: the cause.
        detail: see `FleetOffers.why_not_offered`.
        retry_after_s: seconds until a new attempt may succeed; None if unknown.
    """

    reason: Reason
    detail: str = ""
    retry_after_s: int | None = None


class _Waiter(Struct, frozen=True, eq=False):
    """A waiting request.

    Attributes:
        make_job: creates the job when an agent is chosen.
        replaces: whether it replaces a job, which waits for its lost agent at the same time.
        outcome: the job, or why the request was sent to no agent.
    """

    make_job: Callable[[], Job]
    replaces: bool
    outcome: asyncio.Future[RunningJob | NoAgent]


class Dispatcher:
    """Sends requests to agents.

    Args:
        fleet: chooses the agents.
        settings: the bounds of the queue.
        clock: monotonic, in seconds.
    """

    def __init__(
        self, fleet: Fleet, settings: CoordinatorSettings, clock: Callable[[], float]
    ) -> None:
        self._fleet = fleet
        self._queue = WaitingRequests(settings.max_queued)
        self._waiters: dict[int, _Waiter] = {}
        """By `Wanted.number`."""
        self._numbers = itertools.count()
        self._ended = DecayingCounts[str](clock, RATE_S)
        self._recheck: asyncio.Handle | None = None
        fleet.set_capacity_callback(self._capacity_changed)

    def __repr__(self) -> str:
        return f"<Dispatcher {self._queue!r}>"

    @property
    def queued(self) -> int:
        """How many requests wait for an agent."""
        return len(self._queue)

    def next_number(self) -> int:
        """Return the `Wanted.number` of a new request."""
        return next(self._numbers)

    async def submit(
        self, wanted: Wanted, make_job: Callable[[], Job], wait_s: float
    ) -> RunningJob | NoAgent:
        """Send a request to an agent, and wait for room if necessary.

        A cancellation removes the request from the queue, or abandons its job.

        Args:
            wanted: what the request needs.
            make_job: creates the job when an agent is chosen.
            wait_s: the longest time in the queue.
        """
        outcome = self._send_or_queue(wanted, make_job)
        if not isinstance(outcome, asyncio.Future):
            return outcome
        try:
            done, _ = await asyncio.wait({outcome}, timeout=max(0.0, wait_s))
        except asyncio.CancelledError:
            self._withdraw(wanted)
            raise
        if done:
            del self._waiters[wanted.number]
            return outcome.result()
        reason = self._fleet.why_no_agent(
            wanted.model_id, wanted.operation, ErrorCode.OUT_OF_CAPACITY
        )
        no_agent = self._no_room(wanted.model_id, reason)
        self._withdraw(wanted)
        return no_agent

    async def replace(
        self, job: RunningJob, wanted: Wanted, make_job: Callable[[], Job]
    ) -> RunningJob:
        """Send the request of `job`, whose agent is lost, to another agent.

        Returns:
            The new job after `job` was abandoned, or `job` if it has output or its end, or its
                agent has returned, before another agent has room.
        """
        sent = self._send_or_queue(wanted, make_job, replaces=True)
        if isinstance(sent, RunningJob):
            job.owner.abandon(job)
            return sent
        output = asyncio.create_task(job.wait_while(lost=True), name="lost job")
        try:
            if isinstance(sent, NoAgent):
                await output
                return job
            either: set[asyncio.Future[RunningJob | NoAgent] | asyncio.Future[None]]
            either = {sent, output}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if output.done() or not isinstance(other := sent.result(), RunningJob):
                return job
            del self._waiters[wanted.number]
            job.owner.abandon(job)
            return other
        finally:
            output.cancel()
            if isinstance(sent, asyncio.Future):
                self._withdraw(wanted)

    def _send_or_queue(
        self, wanted: Wanted, make_job: Callable[[], Job], *, replaces: bool = False
    ) -> RunningJob | NoAgent | asyncio.Future[RunningJob | NoAgent]:
        """Send a request, or add it to the queue; then return a future for the outcome."""
        self._dispatch()  # older requests come first
        sent = self._send(wanted, make_job, replaces=replaces)
        if sent is not None:
            return sent
        if not self._queue.add(wanted):
            return self._no_room(wanted.model_id, Reason.QUEUE_FULL)
        loop = asyncio.get_running_loop()
        waiter = _Waiter(make_job, replaces, loop.create_future())
        self._waiters[wanted.number] = waiter
        if self._recheck is None:
            self._recheck = loop.call_later(RECHECK_S, self._check_again)
        return waiter.outcome

    def _send(
        self, wanted: Wanted, make_job: Callable[[], Job], *, replaces: bool
    ) -> RunningJob | NoAgent | None:
        """Send a request; return None if it must wait for room."""
        chosen = self._fleet.pick(
            wanted.model_id, wanted.operation, wanted.tried, wants_stream=wanted.wants_stream
        )
        if not isinstance(chosen, ErrorCode):
            return chosen.submit(make_job())
        may_wait = chosen is ErrorCode.OUT_OF_CAPACITY and self._fleet.availability.is_awaited(
            wanted.model_id
        )
        if may_wait or replaces:
            return None
        reason = self._fleet.why_no_agent(wanted.model_id, wanted.operation, chosen)
        wire_format = wanted.operation.wire_format
        return NoAgent(reason, self._fleet.offers.why_not_offered(wanted.model_id, wire_format))

    def _withdraw(self, wanted: Wanted) -> None:
        """Remove a request from the queue; abandon its job if it was sent meanwhile."""
        self._queue.remove(wanted)
        waiter = self._waiters.pop(wanted.number, None)
        if waiter is not None and waiter.outcome.done():
            job = waiter.outcome.result()
            if isinstance(job, RunningJob):
                job.owner.abandon(job)

    def _dispatch(self) -> None:
        if self._queue:
            self._queue.dispatch(self._place)

    def _place(self, wanted: Wanted) -> bool:
        waiter = self._waiters[wanted.number]
        sent = self._send(wanted, waiter.make_job, replaces=waiter.replaces)
        if sent is None:
            return False
        waiter.outcome.set_result(sent)
        return True

    def _capacity_changed(self, ended_model: str | None) -> None:
        """Check the queue in the next iteration of the loop, once for all frames of a message."""
        if ended_model is not None:
            self._ended.add(ended_model)
        if self._queue:
            if self._recheck is not None:
                self._recheck.cancel()
            self._recheck = asyncio.get_running_loop().call_soon(self._check_again)

    def _check_again(self) -> None:
        self._recheck = None
        self._dispatch()
        if self._queue and self._recheck is None:
            self._recheck = asyncio.get_running_loop().call_later(RECHECK_S, self._check_again)

    def _no_room(self, model_id: str, reason: Reason) -> NoAgent:
        return NoAgent(reason, retry_after_s=self._retry_after_s(model_id))

    def _retry_after_s(self, model_id: str) -> int:
        """Estimate when a request for a model finds room, from the jobs that ended lately."""
        ended = self._ended.count(model_id)
        jobs_before = self._queue.count(model_id) + 1
        seconds = jobs_before * RATE_S / ended if ended >= 1 else UNKNOWN_RETRY_S
        seconds = max(seconds, self._fleet.next_retry_s(model_id) or 0.0)
        return max(1, min(MAX_RETRY_S, math.ceil(seconds)))
