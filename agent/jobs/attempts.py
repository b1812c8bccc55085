"""The attempts of one job: on which backends it runs, one after the other."""

import logging

from provider_agent.adapters.base import BackendError, Transport, Unreachable
from provider_agent.agent.backends.attempt import Attempt
from provider_agent.agent.backends.failover import NoFailover, next_route
from provider_agent.agent.backends.pricing import OfferedPrice
from provider_agent.agent.backends.routing import Refusal, Route
from provider_agent.agent.jobs.backend_pool import BackendPool, find_routes
from provider_agent.agent.jobs.channel import JobChannel
from provider_agent.agent.jobs.ends import used_tokens
from provider_agent.agent.jobs.job_log import job_fields
from provider_agent.agent.jobs.poison_requests import PoisonRequests, request_key
from provider_agent.agent.jobs.timeline import JobTimeline
from provider_agent.event_log import EventLogger
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.frames import JobHeader

log = EventLogger(__name__)


class JobAttempts:
    """The attempts of one job. Creating it starts the first one.

    Args:
        header: the job's header.
        channel: the job's channel in the outbox.
        route: the backend of the first attempt.
        pool: the backends.
        price: the price at which the model was offered when the job arrived.
        poison: the requests that were running when servers died.
        timeline: records the times of the attempts, or None.

    Attributes:
        tried: backend ids in the order of the attempts.
        failover_causes: the error code of each failed attempt that another attempt followed.
        latest: the latest attempt.
    """

    __slots__ = (
        "_channel",
        "_earlier_tokens",
        "_header",
        "_poison",
        "_pool",
        "_price",
        "_recorded_deaths",
        "_request_key",
        "_timeline",
        "_unsent",
        "failover_causes",
        "latest",
        "tried",
    )

    def __init__(
        self,
        header: JobHeader,
        channel: JobChannel,
        route: Route,
        pool: BackendPool,
        price: OfferedPrice,
        poison: PoisonRequests,
        timeline: JobTimeline | None = None,
    ) -> None:
        self._timeline = timeline
        self._header = header
        self._channel = channel
        self._pool = pool
        self._price = price
        self._poison = poison
        self._earlier_tokens = 0
        """Tokens that failed attempts before the latest one used."""
        self._request_key = 0
        """The `request_key` of the request; 0 until `set_request`."""
        self._recorded_deaths = 0
        """`PoisonRequests.recorded` when the latest attempt started."""
        self._unsent = 0
        """How many attempts ended with `Unreachable`: no request was sent."""
        self.failover_causes: tuple[ErrorCode, ...] = ()
        self.tried: list[str] = []
        self.latest = self._start(route)

    @property
    def used_tokens(self) -> int:
        """A lower bound of the tokens that all attempts together used so far."""
        return self._earlier_tokens + used_tokens(self._channel.outcome)

    def set_request(self, request: bytes) -> None:
        """Set the job's request; call it before a backend receives the request.

        Raises:
            PoisonRequest: servers died while they ran it.
        """
        self._request_key = request_key(request)
        self._poison.check(self._request_key)

    def failed(self, error: BackendError) -> None:
        """Record that the latest attempt failed on its backend."""
        self.latest.failed(error, used_tokens(self._channel.outcome), self._request_key)
        if self._timeline is not None:
            self._timeline.attempt_failed(error.code)

    async def fail_over(self, error: BackendError) -> bool:
        """Start the next attempt after a failed one; return False if there is none.

        Raises:
            PoisonRequest: servers died while they ran the request.
        """
        # Record the failure before looking up routes: this frees the attempt's slot on the backend,
        # and if it opens the breaker, the backend is not among the routes.
        self.failed(error)
        self._unsent += isinstance(error, Unreachable)
        tokens = used_tokens(self._channel.outcome)
        route = await self._next_route(error)
        if isinstance(route, NoFailover):
            if log.enabled_for(logging.DEBUG):
                log.debug("job not failed over", **self.log_fields(error=error.code, reason=route))
            return False
        log.info("job failed over", **self.log_fields(error=str(error.code)))
        self.failover_causes += (error.code,)
        self._earlier_tokens += tokens
        self.latest = self._start(route)
        return True

    def log_fields(self, **more: object) -> dict[str, object]:
        """Return the fields of a log record about the job on its latest backend."""
        return job_fields(self._header, self.tried[-1], **more)

    def _start(self, route: Route) -> Attempt:
        self.tried.append(route.backend_id)
        self._recorded_deaths = self._poison.recorded
        self._channel.assign(route.backend_id)
        if log.enabled_for(logging.DEBUG):
            log.debug("attempt started", **self.log_fields(attempt=len(self.tried)))
        attempt = self._pool.start(route)
        if self._timeline is not None:
            self._timeline.attempt_started(route.backend_id, attempt.backend.kind)
        return attempt

    async def _next_route(self, error: BackendError) -> Route | NoFailover:
        """Choose the backend of the next attempt.

        After a lost connection, only a backend that answers a health check now is chosen: the
        request may have crashed the last server, and others may have crashed since their last
        periodic check.

        Raises:
            PoisonRequest: servers died while they ran the request.
        """
        connection_lost = isinstance(error, Transport)
        answers: dict[str, bool] = {}
        if connection_lost:
            failed_id = self.tried[-1]
            answers[failed_id] = await self._pool.answers(failed_id)
            if not answers[failed_id]:
                log.warning("server died during a job", **self.log_fields())
                self._poison.add_death(self._request_key, failed_id, self._recorded_deaths)
                self._poison.check(self._request_key)
        while True:
            found = find_routes(self._pool, self._header, self._price)
            routes = [] if isinstance(found, Refusal) else found
            route = next_route(
                error,
                [route for route in routes if answers.get(route.backend_id, True)],
                self.tried,
                unsent=self._unsent,
                # A started response has sent its status and content type, which cannot change.
                has_output=self._channel.stream.started is not None,
            )
            if isinstance(route, NoFailover) or not connection_lost or route.backend_id in answers:
                return route
            answers[route.backend_id] = await self._pool.answers(route.backend_id)
