"""The HTTP routes for clients."""

import asyncio
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler

from provider_agent.coordinator.agents.dispatcher import Dispatcher
from provider_agent.coordinator.agents.fleet import Fleet
from provider_agent.coordinator.agents.snapshots import ClusterSnapshot
from provider_agent.coordinator.connections.client_address import ProxyNetworks
from provider_agent.coordinator.connections.failed_attempts import FailedAttempts
from provider_agent.coordinator.connections.guarded_connection import GuardedConnection
from provider_agent.coordinator.connections.limits import ConnectionLimits
from provider_agent.coordinator.http.api_keys import ApiKeyCheck
from provider_agent.coordinator.http.client_errors import ClientError, error_of_reason
from provider_agent.coordinator.http.client_request import ClientRequest, read_client_request
from provider_agent.coordinator.http.counters import Counters
from provider_agent.coordinator.http.http_errors import MODELS_PATH, wire_format_of
from provider_agent.coordinator.http.job_attempts import JobAttempts
from provider_agent.coordinator.http.key_limit_check import KeyLimitCheck
from provider_agent.coordinator.http.metrics import Gauges, Metrics
from provider_agent.coordinator.http.model_list import render_model, render_models
from provider_agent.coordinator.http.refusal_log import RefusalLog
from provider_agent.coordinator.http.request_checks import refused_body, refused_origin
from provider_agent.coordinator.http.request_handler import RequestHandler
from provider_agent.coordinator.http.request_memory import MemoryShare, RequestMemory
from provider_agent.coordinator.http.request_record import DISCONNECTED, RequestRecord
from provider_agent.coordinator.http.responses import error_response, json_response
from provider_agent.coordinator.http.status_routes import StatusRoutes
from provider_agent.coordinator.key_limits import KeyLimits
from provider_agent.coordinator.reason import Reason
from provider_agent.coordinator.settings import CoordinatorSettings, ExtraDialect
from provider_agent.protocol.formats import Operation, WireFormat


class HttpApi:
    """The HTTP API for clients.

    Args:
        settings: the coordinator's settings.
        fleet: lists the agents' models.
        dispatcher: sends jobs to agents.
        connections: the open connections, for the metrics.
        cluster: returns the state in the cluster; None if the coordinator is in none.
        key_limits: the limits of each API key; None for no limit.
        clock: monotonic, in seconds.
        job_id_bytes: generates job ids.

    Attributes:
        counters: the outcomes of the requests so far that were accepted.
        refusals: logs the refused requests that have no `RequestRecord`.
    """

    def __init__(
        self,
        settings: CoordinatorSettings,
        fleet: Fleet,
        dispatcher: Dispatcher,
        connections: ConnectionLimits[GuardedConnection],
        *,
        cluster: Callable[[], ClusterSnapshot | None] = lambda: None,
        key_limits: KeyLimits | None = None,
        clock: Callable[[], float],
        job_id_bytes: Callable[[int], bytes],
    ) -> None:
        self.counters = Counters()
        self._settings = settings
        self._fleet = fleet
        self._dispatcher = dispatcher
        self._clock = clock
        proxies = ProxyNetworks(settings.trusted_proxies)
        self.refusals = RefusalLog(proxies, clock)
        self._key_check = ApiKeyCheck(settings.api_keys, FailedAttempts(clock), proxies)
        self._limit_check: KeyLimitCheck | None = None
        if key_limits is not None:
            self._limit_check = KeyLimitCheck(key_limits, needs_key=not settings.open_to_clients)
        self._job_id_bytes = job_id_bytes
        self._connections = connections
        self._cluster = cluster
        self._metrics = Metrics(self._gauges)
        self._memory = RequestMemory(settings.max_held_request_bytes)
        self._running = 0
        self._reading: set[asyncio.Timeout] = set()
        self._ready = True
        self._stopping = False
        self._interrupting = False
        self._idle = asyncio.Event()
        self._idle.set()

    def __repr__(self) -> str:
        return f"<HttpApi running={self._running} {self.counters}>"

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the routes: all operations of the protocol, the model list and the status."""
        for operation in Operation:
            router.add_post(operation.path, self._operation_handler(operation))
        router.add_get(MODELS_PATH, self._models)
        router.add_get(MODELS_PATH + "/{model_id:.+}", self._model)
        StatusRoutes(self.why_not_ready, self.deny_in_openai_format, self._metrics).add_to(router)

    @property
    def running(self) -> int:
        """How many requests are being handled."""
        return self._running

    def announce_stop(self) -> None:
        """Report from now on that the coordinator is not ready; requests are still accepted."""
        self._ready = False

    async def stop(self, timeout_s: float) -> None:
        """Refuse new jobs with 503, and wait at most `timeout_s` for the running ones.

        Requests whose body has not arrived completely are refused too.
        """
        self._stopping = True
        for reading in self._reading:
            if not reading.expired():
                reading.reschedule(0.0)
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return

    def interrupt(self) -> None:
        """Note that the caller now cuts off the requests that still run."""
        self._interrupting = True

    def _operation_handler(self, operation: Operation) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            if (denied := self._deny(request, operation.wire_format)) is not None:
                self.refusals.log(request, denied.status)
                return denied
            record = RequestRecord(operation, self._clock, self._clock())
            refusal = refused_body(request) or self._overload()
            limit_check = self._limit_check
            if limit_check is not None and refusal is None:
                refusal = limit_check.refusal(request, record)
            self._running += 1
            self._idle.clear()
            try:
                return await self._respond(request, record, refusal)
            finally:
                self._running -= 1
                if not self._running:
                    self._idle.set()
                ended_at = self._clock()
                if self._interrupting and record.code == DISCONNECTED:
                    record.failed(error_of_reason(Reason.COORDINATOR_STOPPING))
                record.log(ended_at)
                self._metrics.request_ended(record, ended_at)
                if limit_check is not None:
                    limit_check.request_ended(record)

        return handle

    def _deny(self, request: web.Request, wire_format: WireFormat) -> web.Response | None:
        """Return the response to a request without access; None if it has access."""
        error = refused_origin(request) or self._key_check.refusal(request)
        if error is None:
            return None
        self._metrics.access_denied(error.status)
        return error_response(wire_format, error)

    def _overload(self) -> ClientError | None:
        if self._stopping:
            return error_of_reason(Reason.COORDINATOR_STOPPING)
        is_busy = self._occupied_slots >= self._settings.max_requests
        return error_of_reason(Reason.TOO_MANY_REQUESTS) if is_busy else None

    @property
    def _occupied_slots(self) -> int:
        """Requests whose body is complete: slow bodies of one client must not exclude others."""
        return self._running - len(self._reading)

    async def _respond(
        self, request: web.Request, record: RequestRecord, refusal: ClientError | None
    ) -> web.StreamResponse:
        """Read the request and run it, or send the refusal."""
        operation = record.operation
        with self._memory.share() as memory:
            if refusal is None:
                read = await self._read(request, operation, memory)
                if not isinstance(read, ClientRequest):
                    refusal = read
                elif self._occupied_slots > self._settings.max_requests:  # this request included
                    refusal = error_of_reason(Reason.TOO_MANY_REQUESTS)
                else:
                    return await self._run(request, read, record)
        record.status = refusal.status
        record.failed(refusal)
        return error_response(operation.wire_format, refusal)

    async def _read(
        self, request: web.Request, operation: Operation, memory: MemoryShare
    ) -> ClientRequest | ClientError:
        is_complete = request.content.is_eof()  # then nothing waits, and a timer only costs time
        timeout = asyncio.timeout(None if is_complete else self._settings.body_timeout_s)
        self._reading.add(timeout)  # `stop` makes it expire
        try:
            read = await read_client_request(request, operation, timeout, memory)
        finally:
            self._reading.discard(timeout)
        if self._stopping and timeout.expired():
            return error_of_reason(Reason.COORDINATOR_STOPPING)
        return read

    async def _run(
        self, request: web.Request, client_request: ClientRequest, record: RequestRecord
    ) -> web.StreamResponse:
        record.model_id = client_request.model_id
        record.request_bytes = len(client_request.body)
        attempts = JobAttempts(
            client_request,
            dispatcher=self._dispatcher,
            settings=self._settings,
            counters=self.counters,
            record=record,
            clock=self._clock,
            job_id_bytes=self._job_id_bytes,
        )
        handler = RequestHandler(
            request,
            client_request,
            attempts,
            settings=self._settings,
            counters=self.counters,
            record=record,
        )
        return await handler.run()

    def why_not_ready(self) -> str:
        """Return why requests cannot be served now; "" if they can."""
        if not self._ready:
            return "the coordinator is stopping"
        reason, cluster = self._fleet.offers.why_not_ready(), self._cluster()
        if reason and cluster is not None and not cluster.connected:
            return f"{reason}, and NATS cannot be reached"
        return reason

    def _gauges(self) -> Gauges:
        agents, connections = self._fleet.snapshot(), self._connections
        cluster = self._cluster() or ClusterSnapshot()
        return Gauges(
            agents=len(agents),
            usepod_agents=sum(agent.dialect == ExtraDialect.USEPOD for agent in agents),
            models=len({model for agent in agents for model in agent.models}),
            capacity=sum(agent.capacity for agent in agents),
            jobs=sum(agent.in_flight for agent in agents),
            detached_sessions=len(self._fleet.detached_sessions()),
            queued=self._dispatcher.queued,
            running_requests=self._running,
            held_request_bytes=self._memory.held_bytes,
            connections=len(connections),
            unauthenticated_connections=connections.unauthenticated,
            evicted_connections=connections.evicted,
            refused_connections=connections.refused,
            retried_jobs=self.counters.retried,
            cluster_connected=int(cluster.connected),
            cluster_coordinators=cluster.coordinators,
            cluster_agents=cluster.agents,
            cluster_sent_jobs=cluster.sent_jobs,
            cluster_received_jobs=cluster.received_jobs,
        )

    def deny_in_openai_format(self, request: web.Request) -> web.Response | None:
        """Return the response to a request without access; None if it has access."""
        return self._deny(request, WireFormat.OPENAI)

    async def _models(self, request: web.Request) -> web.StreamResponse:
        wire_format = wire_format_of(request)
        if (denied := self._deny(request, wire_format)) is not None:
            return denied
        return json_response(render_models(wire_format, self._fleet.offers.models(wire_format)))

    async def _model(self, request: web.Request) -> web.StreamResponse:
        wire_format = wire_format_of(request)
        if (denied := self._deny(request, wire_format)) is not None:
            return denied
        model_id = request.match_info["model_id"]
        if model_id not in self._fleet.offers.models(wire_format):
            is_unroutable = bool(self._fleet.offers.why_unroutable(model_id))
            reason = Reason.UNROUTABLE if is_unroutable else Reason.NOT_OFFERED
            detail = self._fleet.offers.why_not_offered(model_id, wire_format)
            error = error_of_reason(reason, model_id, detail=detail)
            return error_response(wire_format, error)
        return json_response(render_model(wire_format, model_id))
