"""Whether the agent accepts a job, and which backend executes it first."""

import logging
from collections.abc import Callable

from provider_agent.agent.backends.pricing import OfferedPrice
from provider_agent.agent.backends.routing import Refusal, RefusalReason, Route
from provider_agent.agent.backends.token_bucket import resize_bucket
from provider_agent.agent.jobs.backend_pool import BackendPool, find_routes
from provider_agent.event_log import EventLogger
from provider_agent.protocol.frames import JobHeader

log = EventLogger(__name__)


class JobAdmission:
    """Applies the limits of the whole agent, across all backends, to new jobs.

    Args:
        pool: the backends.
        max_concurrent: the most jobs that run at the same time.
        tokens_per_minute: the most tokens that all jobs together may use; if None, unlimited.
        clock: returns monotonic seconds.

    Attributes:
        accepting: False once the agent drains; jobs are then refused with `draining`.
    """

    def __init__(
        self,
        pool: BackendPool,
        max_concurrent: int,
        tokens_per_minute: int | None,
        clock: Callable[[], float],
    ) -> None:
        self.accepting = True
        self.max_concurrent = max_concurrent
        self._pool = pool
        self._clock = clock
        self._bucket = resize_bucket(None, tokens_per_minute, clock)

    def __repr__(self) -> str:
        return f"<JobAdmission accepting={self.accepting} {self._bucket!r}>"

    def set_limits(self, max_concurrent: int, tokens_per_minute: int | None) -> None:
        """Change the limits. The available tokens stay, but are at most the new token limit."""
        self.max_concurrent = max_concurrent
        self._bucket = resize_bucket(self._bucket, tokens_per_minute, self._clock)

    @property
    def token_limit_wait_s(self) -> float:
        """Seconds until the token limit admits jobs again; 0 if it admits them now."""
        return 0.0 if self._bucket is None else self._bucket.wait_s

    def consume(self, tokens: int) -> None:
        """Count the tokens that a job used, input and output together."""
        if self._bucket is not None:
            self._bucket.consume(tokens)

    def admit(self, job: JobHeader, in_flight: int, offered: OfferedPrice) -> Route | Refusal:
        """Return the route of the first attempt, or why the agent refuses the job.

        Args:
            job: the header of the new job.
            in_flight: the number of jobs that run now.
            offered: the price that is offered for the model now.
        """
        decision = self._decide(job, in_flight, offered)
        if log.enabled_for(logging.DEBUG):
            _log_decision(job, decision)
        return decision

    def _decide(self, job: JobHeader, in_flight: int, offered: OfferedPrice) -> Route | Refusal:
        if not self.accepting:
            return Refusal(RefusalReason.DRAINING, "the agent is stopping and accepts no new jobs")
        routes = find_routes(self._pool, job, offered)
        if isinstance(routes, Refusal):
            return routes
        if in_flight >= self.max_concurrent:
            text = f"the agent already runs {in_flight} jobs"
            return Refusal(RefusalReason.AGENT_FULL, text)
        if wait_s := self.token_limit_wait_s:
            text = "the operator's limit of tokens per minute is used up"
            return Refusal(RefusalReason.TOKEN_LIMIT, text, wait_s)
        return routes[0]


def _log_decision(job: JobHeader, decision: Route | Refusal) -> None:
    job_id = job.job_id.hex()
    if isinstance(decision, Refusal):
        log.debug(
            "job refused",
            job=job_id,
            code=decision.code,
            reason=decision.message,
            retry_after_s=decision.retry_after_s,
        )
    else:
        log.debug("job admitted", job=job_id, backend=decision.backend_id)
