"""Decides from its breakers and its token limit whether a backend may receive a job now."""

import logging
import math
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from provider_agent.adapters.base import Backend, BackendError, Unreachable
from provider_agent.agent.backends.breaker import Breaker, BreakerState
from provider_agent.agent.backends.token_bucket import TokenBucket, resize_bucket
from provider_agent.event_log import EventLogger
from provider_agent.protocol.errors import ErrorCode, Fault, entry_for

log = EventLogger(__name__)

MAX_SERVER_WAIT_S: Final = 60.0
"""The longest time in seconds for which a server's request to wait opens a breaker."""

MAX_MODELS: Final = 256
"""The most models with their own breaker. To add one more, a closed breaker is dropped."""

_STALE_MODEL_LIST: Final = frozenset({ErrorCode.MODEL_NOT_LOADED, ErrorCode.FORMAT_NOT_SUPPORTED})
"""Errors that show that the known list of models is out of date; the server itself is healthy."""

Admitted = tuple[tuple[Breaker, int], ...]
"""The breakers that admitted a job, each with its generation at that time."""


class Check(Enum):
    """What to check after a job has ended."""

    NOTHING = auto()
    HEALTH = auto()
    """Check the backend's health now."""
    MODEL = auto()
    """Check the backend's health, and whether the model of the job can generate a token."""
    CONNECTION = auto()
    """Check the backend's health without a pause; it receives no jobs until the check has ended."""


class AdmissionControl:
    """Decides whether one backend may receive a job for a model now.

    After repeated failures, the breaker of the backend or of the model opens. If the backend can
    confirm failures (`Backend.confirms_failures`), the model is checked instead, so that no client
    can take it out of service with requests that the server answers with an internal error. In both
    cases, a breaker opens when the server asks to wait.

    Args:
        backend: whose `breaker_rule` applies.
        tokens_per_minute: the operator's limit for the backend; if None, unlimited.
        clock: returns monotonic seconds.

    Attributes:
        changes: how often a breaker has opened or closed so far.
    """

    def __init__(
        self, backend: Backend, tokens_per_minute: int | None, clock: Callable[[], float]
    ) -> None:
        self.changes = 0
        self._rule = backend.breaker_rule
        # With `counts_client_errors`, the service blocks a key after too many failed requests. The
        # check of a model would be another request that may fail, so the breaker opens without it.
        self._confirms = backend.confirms_failures and not self._rule.counts_client_errors
        self._backend_id = backend.id
        self._clock = clock
        self._breaker = self._new_breaker()
        self._failures = 0
        self._models: dict[str, Breaker] = {}
        self._bucket: TokenBucket | None = None
        self.set_token_limit(tokens_per_minute)

    def __repr__(self) -> str:
        return f"<AdmissionControl {self._breaker!r} models={len(self._models)} {self._bucket!r}>"

    def is_open(self, model_id: str) -> bool:
        """Whether a breaker stops the jobs of a model; while it does, the model is not offered."""
        for breaker in self._breakers(model_id):
            if not breaker.closed and breaker.state is BreakerState.OPEN:
                return True
        return False

    def has_capacity(self, model_id: str) -> bool:
        """Whether breakers and token limit admit one more job for a model now."""
        for breaker in self._breakers(model_id):
            if not breaker.closed and not breaker.admits():
                return False
        return self._bucket is None or self._bucket.wait_s == 0

    @property
    def next_change_s(self) -> float | None:
        """Seconds until the next open breaker becomes half open; None if none is open."""
        waits = (one.remaining_open_s for one in (self._breaker, *self._models.values()))
        return min((wait_s for wait_s in waits if wait_s > 0), default=None)

    @property
    def retry_after_s(self) -> float | None:
        """Seconds until the token limit admits jobs again; None if it admits them now."""
        wait_s = self._bucket.wait_s if self._bucket is not None else 0.0
        return wait_s or None

    @property
    def reason(self) -> str:
        """Why some jobs are refused now, for the operator: open breakers, or the token limit."""
        if wait_s := self._breaker.remaining_open_s:
            return f"its breaker is open: no jobs for {wait_s:.0f} s; see the log for its errors"
        paused = sorted(name for name, one in self._models.items() if one.remaining_open_s)
        if paused:
            wait_s = max(self._models[name].remaining_open_s for name in paused)
            named = ", ".join(paused[:3]) + (", …" if len(paused) > 3 else "")
            return f"no jobs for {named} for up to {wait_s:.0f} s; see the log for the errors"
        if limited_s := self.retry_after_s:
            text = "its limit of tokens per minute is used up"
            return f"{text}: no jobs for {math.ceil(limited_s)} s"
        return ""

    def set_token_limit(self, tokens_per_minute: int | None) -> None:
        """Change the operator's limit, which None removes; see `TokenBucket.set_rate`."""
        self._bucket = resize_bucket(self._bucket, tokens_per_minute, self._clock)

    def start(self, model_id: str) -> Admitted:
        """Register a job that starts now; the outcome is reported with the return value."""
        if self._rule.per_model and model_id not in self._models:
            self._add_model(model_id)
        return tuple([(breaker, breaker.start()) for breaker in self._breakers(model_id)])

    def consume(self, tokens: int) -> None:
        """Count the tokens that an ended job used, input and output together."""
        if self._bucket is not None and tokens:
            self._bucket.consume(tokens)
            if log.enabled_for(logging.DEBUG) and (wait_s := self._bucket.wait_s) > 0:
                log.debug("token limit reached", backend=self._backend_id, wait_s=wait_s)

    def responded(self, admitted: Admitted) -> None:
        """Record that a job has output: half-open breakers close, long before the job ends."""
        for breaker, generation in admitted:
            if not breaker.closed:
                breaker.succeeded(generation)

    def succeeded(self, admitted: Admitted) -> None:
        """Record that a job completed."""
        for breaker, generation in admitted:
            if self._rule.counts_client_errors and breaker.closed:
                # The service blocks a key after too many failed requests, also with successes
                # between them: a success must not reset the count.
                breaker.ignored(generation)
            else:
                breaker.succeeded(generation)

    def failed(self, admitted: Admitted, error: BackendError, request: int) -> Check:
        """Record that a job failed; return what to check now.

        Args:
            admitted: the return value of `start`.
            error: why the job failed.
            request: the hash of its request.
        """
        counts = self._rule.counts_client_errors and error.status is not None
        wait_s = error.retry_after_s or 0.0
        if error.code is ErrorCode.BACKEND_OVERLOADED and wait_s > 0:
            limited, generation = admitted[-1]
            limited.ignored(generation)
            limited.open_for(min(wait_s, MAX_SERVER_WAIT_S))
            if counts:
                self._count(admitted[:1], error, request)
            return Check.HEALTH
        is_stale = error.code in _STALE_MODEL_LIST
        if not counts and (is_stale or entry_for(error.code).fault is not Fault.PROVIDER):
            log.debug("failure not counted", backend=self._backend_id, code=error.code)
            self.abandoned(admitted)
            return Check.HEALTH if is_stale else Check.NOTHING
        reached = self._count(admitted, error, request)
        if reached and self._confirms:
            return Check.MODEL
        if isinstance(error, Unreachable):
            return Check.CONNECTION
        if counts:
            return Check.HEALTH if reached or is_stale else Check.NOTHING
        checks = reached or error.code is not ErrorCode.BACKEND_OVERLOADED
        return Check.HEALTH if checks else Check.NOTHING

    def abandoned(self, admitted: Admitted) -> None:
        """Record that a job was stopped, or failed by a defect that is not the server's.

        Neither is information about the backend.
        """
        for breaker, generation in admitted:
            breaker.ignored(generation)

    def reset(self) -> None:
        """Forget all failures, because a check showed that the backend works."""
        for breaker in (self._breaker, *self._models.values()):
            breaker.reset()

    def _count(self, admitted: Admitted, error: BackendError, request: int) -> bool:
        """Count a failure; return whether the breaker is open or `rule.failures` is reached."""
        log.debug("failure counted", backend=self._backend_id, code=error.code)
        failing, generation = admitted[0] if self._rule.counts_client_errors else admitted[-1]
        self.abandoned(tuple(pair for pair in admitted if pair[0] is not failing))
        if self._confirms:
            failing.ignored(generation)
            return failing.count_failure(request)
        if self._rule.counts_client_errors:
            # The service counts every failed request, also repeated ones.
            self._failures += 1
            request = self._failures
        failing.failed(generation, request)
        return failing.state is BreakerState.OPEN

    def _breakers(self, model_id: str) -> tuple[Breaker, ...]:
        """Return the breakers that a job for a model passes; the model's own is the last."""
        own = self._models.get(model_id)
        return (self._breaker,) if own is None else (self._breaker, own)

    def _add_model(self, model_id: str) -> None:
        if len(self._models) >= MAX_MODELS:
            closed = (name for name, one in self._models.items() if one.closed)
            if (name := next(closed, None)) is None:
                return
            del self._models[name]
        self._models[model_id] = self._new_breaker()

    def _new_breaker(self) -> Breaker:
        return Breaker(self._rule, self._clock, self._backend_id, self._breaker_changed)

    def _breaker_changed(self) -> None:
        self.changes += 1
