"""What keeps jobs from a backend beside its health: a breaker and a limit of tokens per minute."""

from collections.abc import Callable
from typing import Final

from provider_agent.adapters.base import BackendError
from provider_agent.agent.backends.breaker import DEFAULT_RULE, VENICE_RULE, Breaker, BreakerState
from provider_agent.agent.backends.token_bucket import TokenBucket, limited
from provider_agent.protocol.errors import ErrorCode, Fault, entry_for

MAX_TOLD_REST_S: Final = 60.0
"""The longest rest that a server's own word brings: its limit may be about one model only."""

_SAYS_NOTHING: Final = frozenset({ErrorCode.MODEL_NOT_LOADED, ErrorCode.FORMAT_NOT_SUPPORTED})
"""The list of models is old; the server itself is well."""


class AdmissionControl:
    """The guard of one backend.

    Args:
        kind: of the backend; some services have rules of their own.
        tokens_per_minute: the operator's limit for it; None: no limit.
        clock: monotonic, in seconds.
    """

    def __init__(
        self, kind: str, tokens_per_minute: int | None, clock: Callable[[], float]
    ) -> None:
        self._counts_all = kind == "venice"
        """Whether the service counts every request that it refused, whosever fault it was."""
        self._rule = VENICE_RULE if self._counts_all else DEFAULT_RULE
        self._breaker = Breaker(self._rule, clock)
        self._clock = clock
        self._bucket: TokenBucket | None = None
        self.allow(tokens_per_minute)

    def __repr__(self) -> str:
        return f"<AdmissionControl {self._breaker!r} {self._bucket!r}>"

    @property
    def is_out(self) -> bool:
        """Whether the backend is taken out of what is offered."""
        return self._breaker.state is BreakerState.OPEN

    @property
    def rest_s(self) -> float:
        """How long it is still out; 0 when it is not."""
        return self._breaker.retry_in_s

    @property
    def has_room(self) -> bool:
        """Whether one more job may go to it now."""
        return self._breaker.admits() and (self._bucket is None or self._bucket.wait_s == 0)

    @property
    def retry_after_s(self) -> float | None:
        """When its limit of tokens lets jobs in again; None: nothing is known to keep them out."""
        wait_s = self._bucket.wait_s if self._bucket is not None else 0.0
        return wait_s or None

    @property
    def reason(self) -> str:
        """Why it is out, for the operator; "" when it is not."""
        if not self.is_out:
            return ""
        return f"it keeps failing and rests for {self.rest_s:.0f} s; see the log for its errors"

    def allow(self, tokens_per_minute: int | None) -> None:
        """From now on the operator's limit is this; None: there is none."""
        self._bucket = limited(self._bucket, tokens_per_minute, self._clock)

    def started(self) -> int:
        """A job goes to the backend; its end is told with the number that is returned."""
        return self._breaker.started()

    def ended(self, number: int, error: BackendError | None, tokens: int) -> bool:
        """A job on the backend is over.

        Args:
            number: from `started`.
            error: why it failed; None: it did not, or not by the backend's doing.
            tokens: what it used, input and output together.

        Returns:
            Whether the backend should be looked at again at once.
        """
        if self._bucket is not None and tokens:
            self._bucket.spend(tokens)
        if error is None:
            if self._counts_all and self._breaker.state is BreakerState.CLOSED:
                # A success between failures does not make the service forget them.
                self._breaker.dropped(number)
            else:
                self._breaker.succeeded(number)
            return False
        told_s = error.retry_after_s or 0.0
        if error.code is ErrorCode.BACKEND_OVERLOADED and told_s > 0:
            if self._counts_all:
                # Not so short that the failures after each rest add up to a block.
                told_s = max(told_s, self._rule.within_s / self._rule.failures)
            self._breaker.dropped(number)
            self._breaker.rest(min(told_s, MAX_TOLD_REST_S))
            return True
        if self._counts_all and error.status is not None:
            self._breaker.failed(number)
            return self.is_out or error.code in _SAYS_NOTHING
        if error.code in _SAYS_NOTHING:
            self._breaker.dropped(number)
            return True
        if entry_for(error.code).fault is not Fault.PROVIDER:
            self._breaker.dropped(number)
            return False
        self._breaker.failed(number)
        return error.code is not ErrorCode.BACKEND_OVERLOADED or self.is_out

    def dropped(self, number: int) -> None:
        """A job was stopped from outside: it says nothing about the backend."""
        self._breaker.dropped(number)
