"""Monitors one backend: its health, its models, its load and the jobs that it executes.

The backend is checked periodically: every `interval_s` while it is healthy, and every 2 s while it
may be loading. While it is down for another reason, or the last check found a model that fails to
generate a token, the first wait is 1 to 2 s, and the waits grow to 30 to 60 s, whatever
`interval_s` is. Some failures of jobs trigger a check (`AdmissionControl.failed`). A backend that
the operator removed or changed is retired: it is no longer checked, its running jobs finish, and it
is closed when the last of them has ended.

An idle backend is also asked every few seconds whether it is alive: see `liveness.py`.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from msgspec import structs

from provider_agent.adapters.base import (
    Backend,
    BackendHealth,
    BackendModel,
    BackendTimeout,
)
from provider_agent.agent.backends.adapter_calls import call_within
from provider_agent.agent.backends.admission import AdmissionControl, Check
from provider_agent.agent.backends.attempt import Attempt
from provider_agent.agent.backends.check_times import CheckTimes, recheck_pause_s
from provider_agent.agent.backends.health_check import (
    BackendState,
    Suspects,
    answers,
    check_backend,
)
from provider_agent.agent.backends.liveness import LivenessMonitor
from provider_agent.agent.backends.load_reader import LOAD_INTERVAL_S, LoadReader
from provider_agent.agent.backends.model_use import ModelUse
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)

CLOSE_TIMEOUT_S: Final = 5.0
"""The timeout of closing a backend, so that one adapter does not keep the agent running."""


class HealthMonitor:
    """Checks one backend periodically, and counts the jobs on it.

    Args:
        backend: the backend to monitor; `close` closes it.
        admission: the backend's breaker and token limit.
        model_use: counts the jobs of each model, and measures its speed.
        on_check: called after every health check.
        on_change: called when the models that the backend offers, or its capacity, have changed.
        interval_s: seconds between two checks while the backend is healthy.
        liveness_interval_s: the most seconds between two liveness checks of the idle backend; 0:
            none.
        uniform: returns random numbers in [0, 1).
        clock: returns monotonic seconds, as the event loop's clock does.

    Attributes:
        state: the result of the last health check, or of a stall since; a check that times out
            while jobs run does not change it.
        last_models: the models that the backend offered when it was last healthy.
        markup: share that is added to the upstream's prices, 0.05 for five percent; None: nothing.
        overflow: whether the backend joins the offers of other backends.
        checked_at: the loop time when the last check ended; None before the first.
        running: the number of jobs that run on the backend now.
        suspects: the models that the next check asks to generate a token; see `Suspects`.
        retired: whether the backend receives no more jobs.
        closed: whether the backend is closed.
    """

    def __init__(
        self,
        backend: Backend,
        admission: AdmissionControl,
        model_use: ModelUse,
        on_check: Callable[[], None],
        on_change: Callable[[], None],
        *,
        interval_s: float,
        liveness_interval_s: float,
        uniform: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self.backend = backend
        self.admission = admission
        self.model_use = model_use
        self.state = BackendState(backend, BackendHealth(False, None, "not checked yet"))
        self.last_models: tuple[BackendModel, ...] = ()
        self.markup: float | None = None
        self.overflow = False
        self.checked_at: float | None = None
        self.running = 0
        self.suspects: dict[str, bool] = {}
        self.retired = False
        self.closed = False
        self._on_check = on_check
        self._on_change = on_change
        self._check_times = CheckTimes(interval_s, uniform)
        self._recheck = asyncio.Event()
        """Set to check before the scheduled time, and to wake up `run` when the backend retires."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._answers: asyncio.Task[bool] | None = None
        self._unreachable = False
        """Whether a connection failed or `answers` was False, and no later check has ended yet."""
        self._load_reader = LoadReader(backend, clock)
        self._liveness = LivenessMonitor(
            backend,
            lambda: not self.running,
            self._lost,
            self._answered,
            interval_s=liveness_interval_s,
            uniform=uniform,
        )
        self._stall_reason: str | None = None
        """Why the backend counts as stalled; None after a check has passed."""
        self._compared: tuple[BackendState, int] | None = None
        """`state` and `AdmissionControl.changes` at the last `_report_change`."""
        self._offered: tuple[object, ...] = ()
        """The models and the capacity at the last call of `on_change`, to detect a change."""

    def __repr__(self) -> str:
        state = "retired" if self.retired else "up" if self.state.health.reachable else "down"
        return (
            f"<HealthMonitor {self.backend.id} {state} running={self.running} {self.admission!r}>"
        )

    @property
    def serves(self) -> bool:
        """Whether the backend is healthy, and breakers do not stop all of its models."""
        offered = self._offered_models()
        return self.state.health.reachable and (bool(offered) or not self.state.models)

    def capacity(self, model_id: str) -> int:
        """Return the most jobs at once; 0 if no job for the model may start now."""
        may_start = not self._unreachable and self.admission.has_capacity(model_id)
        return self.backend.max_concurrent if may_start else 0

    # --- jobs ------------------------------------------------------------------------------------

    def start(self, model_id: str) -> Attempt:
        """Start an attempt on the backend, of a job for this model."""
        if not self.running:
            self._load_reader.restart()
        self.running += 1
        self._idle.clear()
        self.model_use.started(model_id)
        return Attempt(
            self.backend,
            self.admission,
            model_id,
            partial(self._attempt_settled, model_id),
            partial(self.model_use.measured, model_id),
        )

    def _attempt_settled(self, model_id: str, check: Check) -> None:
        if check is Check.MODEL:
            self.suspects.setdefault(model_id, False)
        if check is Check.CONNECTION:
            self._unreachable = True
        if check is not Check.NOTHING:
            self._recheck.set()
        self.model_use.ended(model_id)
        self.running -= 1
        if not self.running:
            self._idle.set()
        # A failed attempt may have opened the breaker. That is reported now, because a hanging
        # server delays the next check. Usually it has not; a service may offer hundreds of models.
        if self._compared != (self.state, self.admission.changes):
            self._report_change()

    # --- health ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Check the backend until it is retired, wait for its running jobs, and close it.

        If this coroutine is cancelled, the backend stays open until `close` is called.
        """
        async with asyncio.TaskGroup() as group:
            name = f"liveness of {self.backend.id}"
            liveness = group.create_task(self._liveness.run(), name=name)
            await self._check_until_retired()
            liveness.cancel()
        await self._idle.wait()
        await self.close()

    async def _check_until_retired(self) -> None:
        loop = asyncio.get_running_loop()
        next_check = loop.time()
        while not self.retired:
            if self._recheck.is_set():
                since_check_s = None if self.checked_at is None else loop.time() - self.checked_at
                pause_s = recheck_pause_s(since_check_s, unreachable=self._unreachable)
                await asyncio.sleep(pause_s)
            if self._recheck.is_set() or loop.time() >= next_check:
                await self.check()
                next_check_s = self._check_times.next_check_s(self.state)
                next_check = loop.time() + next_check_s
                log.debug("next health check", backend=self.backend.id, wait_s=next_check_s)
            else:
                await self._read_load()
            self._report_change()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(self._wait_s(next_check - loop.time()), 0)):
                    await self._recheck.wait()

    async def answers(self) -> bool:
        """Whether the backend answers a health check now. Concurrent calls share one check.

        If it does not, `run` checks the backend at once, and the backend receives no jobs until
        that check has ended.
        """
        if self._answers is None or self._answers.done():
            self._answers = asyncio.create_task(answers(self.backend), name="check before failover")
        answered = await asyncio.shield(self._answers)
        if not answered:
            self._unreachable = True
            self._recheck.set()
        return answered

    def _wait_s(self, next_check_s: float) -> float:
        """Seconds until `run` has something to do."""
        wait_s = min(next_check_s, LOAD_INTERVAL_S)
        if self.running and self._load_reader.stall_s is not None:
            wait_s = min(wait_s, self._load_reader.stall_s / 4)
        # Report a model again when its breaker is half open.
        half_open_s = self.admission.next_change_s
        return wait_s if half_open_s is None else min(wait_s, half_open_s)

    def retire(self) -> None:
        """Retire the backend: no more jobs; `run` closes it when its running jobs have ended."""
        self.retired = True
        self._recheck.set()

    def set_intervals(self, interval_s: float, liveness_interval_s: float) -> None:
        """Change the seconds between checks; if `interval_s` is new, check within seconds."""
        self._liveness.set_interval(liveness_interval_s)
        if interval_s != self._check_times.interval_s:
            self._check_times.interval_s = interval_s
            self._recheck.set()

    async def close(self) -> None:
        """Close the backend; jobs that still run on it fail. Further calls do nothing."""
        if self.closed:
            return
        if self._answers is not None:
            self._answers.cancel()
        try:
            await call_within(CLOSE_TIMEOUT_S, self.backend, self.backend.close)
        except Exception:
            # One adapter's defect must not keep the others' connections open.
            log.exception("adapter failed", backend=self.backend.id)
        self.closed = True

    async def check(self) -> None:
        """Check the backend's health and models, read its load, and report what changed."""
        self._recheck.clear()  # before the check: a job that fails during it triggers a new check
        suspects = dict(self.suspects)
        current = await check_backend(self.backend, suspects)
        if not self._recheck.is_set():
            self._unreachable = False
        if self.retired:
            return
        self.checked_at = asyncio.get_running_loop().time()
        self._on_check()
        previous = self.state  # a liveness check may have changed it during this one
        if current.health.timed_out and previous.models and self.running:
            # A server that is busy with jobs may have no thread left for a health check
            # (llama.cpp): while its jobs run, a timeout does not mean that it is down.
            return
        if current.health.reachable:
            self._update_suspects(suspects, current)
            self.last_models = current.models
            self._stall_reason = None
        elif self._stall_reason and (current.health.timed_out or current.failing):
            # The check only confirms the stall.
            health = structs.replace(current.health, last_error=self._stall_reason)
            current = structs.replace(current, health=health)
        self._check_times.checked(current)
        self.state = current
        _log_change(previous, current)
        await self._read_load()
        self._report_change()

    def _update_suspects(self, checked: Suspects, current: BackendState) -> None:
        """Keep those of the checked suspects that still fail.

        If no model fails, and the check tested a model or ended an outage, reset the breakers.
        """
        for model_id in checked:
            if model_id in current.failing:
                self.suspects[model_id] = True
            else:
                del self.suspects[model_id]
        if not current.failing and (checked or not self.state.health.reachable):
            self.admission.reset()

    def _offered_models(self) -> tuple[BackendModel, ...]:
        is_open = self.admission.is_open
        return tuple(model for model in self.state.models if not is_open(model.model_id))

    def _report_change(self) -> None:
        self._compared = self.state, self.admission.changes
        models = self._offered_models()
        offered = (models, self.state.capacity) if models else ()
        if offered != self._offered and not self.retired:
            self._offered = offered
            self._on_change()

    async def _read_load(self) -> None:
        """Update the reported load.

        A failure clears the load. It alone does not mark the backend as down: the backend counts as
        stalled only if it also reported no progress, and no job received output, for `stall_s`.
        """
        works = self.state.health.reachable and not self.retired
        load = await self._load_reader.read() if works else None
        self.state = structs.replace(self.state, load=load)
        stalled = self._load_reader.is_stalled(jobs_run=self.running > 0)
        if self.state.models and stalled:
            self._mark_stalled()

    def _lost(self, health: BackendHealth) -> None:
        """Mark the idle backend as down, because it did not answer; check it at once."""
        if self.retired or not self.state.health.reachable:
            return
        previous, self.state = self.state, BackendState(self.backend, health)
        self._unreachable = True
        self._recheck.set()
        _log_change(previous, self.state)
        self._report_change()

    def _answered(self) -> None:
        """Check a backend that was lost and answers again."""
        if not self.state.health.reachable:
            self._recheck.set()

    def _mark_stalled(self) -> None:
        """Mark the backend as down until its next check passes; end the jobs without output.

        If the backend can confirm failures, its models have to generate a token in that check.
        """
        stall_s = self._load_reader.stall_s
        text = f"the server processed no token for {stall_s:g} s while jobs ran; is it frozen?"
        self._stall_reason = text
        previous, self.state = (
            self.state,
            BackendState(self.backend, BackendHealth(False, None, text)),
        )
        if self.backend.confirms_failures:
            self.suspects = {model.model_id: True for model in previous.models}
        self._recheck.set()
        _log_change(previous, self.state)
        self.backend.end_waiting_jobs(BackendTimeout(text))


def _log_change(previous: BackendState, current: BackendState) -> None:
    fields: dict[str, object] = {"backend": current.backend.id, "models": len(current.models)}
    if current.health.reachable and not previous.health.reachable:
        log.info("backend is up", **fields)
    elif not current.health.reachable and previous.health.last_error != current.health.last_error:
        fields["reason"] = current.health.last_error
        log.warning("backend is down", **fields)
    elif previous.models != current.models:
        log.info("backend models changed", **fields)
