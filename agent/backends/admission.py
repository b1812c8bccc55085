"""Decides from its breaker and its token limit whether a backend may receive a job now."""

import logging
from collections.abc import Callable
from typing import Final

from provider_agent.adapters.base import BackendError
from provider_agent.adapters.breaker_rule import BreakerRule
from provider_agent.agent.backends.breaker import Breaker, BreakerState
from provider_agent.agent.backends.token_bucket import TokenBucket, resize_bucket
from provider_agent.event_log import EventLogger
from provider_agent.protocol.errors import ErrorCode, Fault, entry_for

log = EventLogger(__name__)

MAX_SERVER_WAIT_S: Final = 60.0
"""The longest time in seconds for which a server's request to wait opens the breaker. It is short,
because the server may limit one model only, and the breaker stops all jobs of the backend."""

_STALE_MODEL_LIST: Final = frozenset({ErrorCode.MODEL_NOT_LOADED, ErrorCode.FORMAT_NOT_SUPPORTED})
"""Errors that show that the known list of models is out of date; the server itself is healthy."""


class AdmissionControl:
    """Decides from its breaker and its token limit whether one backend may receive a job now.

    Args:
        rule: when the backend's breaker opens, and for how long.
        tokens_per_minute: the operator's limit for the backend; if None, unlimited.
        clock: returns monotonic seconds.
        backend_id: the id of the backend, for the log.
    """

    def __init__(
        self,
        rule: BreakerRule,
        tokens_per_minute: int | None,
        clock: Callable[[], float],
        backend_id: str = "",
    ) -> None:
        self._rule = rule
        self._breaker = Breaker(rule, clock, backend_id)
        self._clock = clock
        self._backend_id = backend_id
        self._bucket: TokenBucket | None = None
        self.set_token_limit(tokens_per_minute)

    def __repr__(self) -> str:
        return f"<AdmissionControl {self._breaker!r} {self._bucket!r}>"

    @property
    def is_open(self) -> bool:
        """Whether the breaker is open; while it is, the backend's models are not offered."""
        return self._breaker.state is BreakerState.OPEN

    @property
    def remaining_open_s(self) -> float:
        """Seconds until the breaker becomes half open; 0 if it is not open."""
        return self._breaker.remaining_open_s

    @property
    def has_capacity(self) -> bool:
        """Whether breaker and token limit admit one more job now."""
        return self._breaker.admits() and (self._bucket is None or self._bucket.wait_s == 0)

    @property
    def retry_after_s(self) -> float | None:
        """Seconds until the token limit admits jobs again; None if it admits them now."""
        wait_s = self._bucket.wait_s if self._bucket is not None else 0.0
        return wait_s or None

    @property
    def reason(self) -> str:
        """Why the breaker is open, for the operator; "" if it is not open."""
        if not self.is_open:
            return ""
        wait_s = self.remaining_open_s
        return f"its breaker is open: no jobs for {wait_s:.0f} s; see the log for its errors"

    def set_token_limit(self, tokens_per_minute: int | None) -> None:
        """Change the operator's limit, which None removes; see `TokenBucket.set_rate`."""
        self._bucket = resize_bucket(self._bucket, tokens_per_minute, self._clock)

    def start(self) -> int:
        """Register a job that starts now.

        Returns:
            The breaker's generation; the job's outcome is reported with it.
        """
        return self._breaker.start()

    def consume(self, tokens: int) -> None:
        """Count the tokens that an ended job used, input and output together."""
        if self._bucket is not None and tokens:
            self._bucket.consume(tokens)
            if log.enabled_for(logging.DEBUG) and (wait_s := self._bucket.wait_s) > 0:
                log.debug("token limit reached", backend=self._backend_id, wait_s=wait_s)

    def succeeded(self, generation: int) -> None:
        """Record that a job completed."""
        if self._rule.counts_client_errors and self._breaker.state is BreakerState.CLOSED:
            # `counts_client_errors` is for a service that blocks a key after too many failed
            # requests, also with successes between them: a success must not reset the count.
            self._breaker.ignored(generation)
        else:
            self._breaker.succeeded(generation)

    def failed(self, generation: int, error: BackendError) -> bool:
        """Record that a job failed; return whether to check the backend's health at once."""
        wait_s = error.retry_after_s or 0.0
        if error.code is ErrorCode.BACKEND_OVERLOADED and wait_s > 0:
            if self._rule.counts_client_errors:
                # Such a service also counts overload responses. With shorter waits, more than
                # `failures` jobs could fail within `window_s`, and the service could block the key.
                wait_s = max(wait_s, self._rule.window_s / self._rule.failures)
            self._breaker.ignored(generation)
            self._breaker.open_for(min(wait_s, MAX_SERVER_WAIT_S))
            return True
        if self._rule.counts_client_errors and error.status is not None:
            self._count(generation, error)
            return self.is_open or error.code in _STALE_MODEL_LIST
        if error.code in _STALE_MODEL_LIST:
            self._ignore(generation, error)
            return True
        if entry_for(error.code).fault is not Fault.PROVIDER:
            self._ignore(generation, error)
            return False
        self._count(generation, error)
        return error.code is not ErrorCode.BACKEND_OVERLOADED or self.is_open

    def abandoned(self, generation: int) -> None:
        """Record that a job was stopped, or failed by a defect that is not the server's.

        Neither is information about the backend.
        """
        self._breaker.ignored(generation)

    def _count(self, generation: int, error: BackendError) -> None:
        log.debug("failure counted", backend=self._backend_id, code=error.code)
        self._breaker.failed(generation)

    def _ignore(self, generation: int, error: BackendError) -> None:
        log.debug("failure not counted", backend=self._backend_id, code=error.code)
        self._breaker.ignored(generation)
