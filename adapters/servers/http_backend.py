"""The common part of all HTTP adapters: API requests and jobs.

An *API request* is any request that is not a job: a health check, a model list, a load, a probe.
"""

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import ClassVar, Final

import msgspec

from provider_agent.adapters.base import (
    Backend,
    BackendError,
    BackendHealth,
    BackendModel,
    BackendSettings,
    BadStatus,
    BreakerRule,
    Job,
    JobSink,
    ModelNotFound,
    ModelServerLoad,
    ResponseOutcome,
    Transport,
)
from provider_agent.adapters.http.client import HttpClient, HttpRequest
from provider_agent.adapters.http.dialer import check_connection
from provider_agent.adapters.http.environment_proxy import environment_proxy
from provider_agent.adapters.http.http_client import http_client
from provider_agent.adapters.requests import offload
from provider_agent.adapters.requests.body import UpstreamRequest, prepare_request
from provider_agent.adapters.requests.output_limit import one_token
from provider_agent.adapters.requests.policy import default_policy
from provider_agent.adapters.requests.prompt_size import least_prompt_tokens
from provider_agent.adapters.requests.token_probe import token_probe
from provider_agent.adapters.responses.error_body import ErrorResponse
from provider_agent.adapters.responses.http_errors import failed_health
from provider_agent.adapters.responses.relay import Relay
from provider_agent.adapters.responses.reported_errors import status_error
from provider_agent.adapters.responses.retry_after import retry_after_s
from provider_agent.adapters.responses.stream_ends import StreamEnds
from provider_agent.adapters.responses.timeouts import JobTimeouts
from provider_agent.adapters.servers.api_request import send_api_request
from provider_agent.adapters.servers.model_selection import select_models
from provider_agent.adapters.servers.request_headers import common_headers, job_headers
from provider_agent.adapters.servers.server_response import BodyT, ServerResponse
from provider_agent.protocol.formats import Operation, find_operation

API_TIMEOUT_S: Final = 10.0
"""Timeout of an API request. A busy server may need seconds to respond."""

GENERATION_TIMEOUT_S: Final = 20.0
"""Timeout of `generate_token`. A busy server may need longer: see `Backend.generate_token`."""

ROUTE_ABSENT: Final = frozenset({404, 405, 501})
"""Statuses with which most servers reject a request to a route that they do not have."""

INCONCLUSIVE: Final = frozenset({401, 403, 429, 503})
"""Statuses that do not show whether a route exists."""


class HttpBackend(Backend):
    """Base class of adapters for HTTP servers.

    A subclass implements `check_health` and `list_models`.

    Class attributes:
        asks_for_usage: whether the server reports a stream's token usage only on request.
        knows_only_max_tokens: whether the server ignores `max_completion_tokens`.
        estimates_prompt: whether `message_start` of a Messages stream only estimates the tokens of
            the prompt; those of an interrupted stream are then unknown.
        reuses_connections: whether one connection may carry several requests.
        liveness_path: the route that shows with status 200, and without work for the server, that
            it is alive; None: the server has none, and accepting a connection has to suffice.

    Args:
        settings: the operator's settings.
        clock: monotonic, in seconds.
    """

    breaker_rule: ClassVar[BreakerRule] = BreakerRule(per_model=True)
    confirms_failures: ClassVar[bool] = True
    asks_for_usage: ClassVar[bool] = True
    knows_only_max_tokens: ClassVar[bool] = False
    estimates_prompt: ClassVar[bool] = False
    reuses_connections: ClassVar[bool] = True
    liveness_path: ClassVar[str | None] = None

    def __init__(
        self, settings: BackendSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(settings)
        self._clock = clock
        # A proxy is for remote services only, not for servers in the operator's network.
        self._proxy = None if self.native else environment_proxy(self.settings.url)
        self._secrets = frozenset({self.settings.api_key} if self.settings.api_key else ())
        self._http_client: HttpClient | None = None
        self._api_client: HttpClient | None = None
        self._upstream_ids: dict[str, str] = {}
        self._wall_clock: Callable[[], float] = time.time
        self._running_timeouts: set[JobTimeouts] = set()
        self._stream_ends = StreamEnds()

    # --- API requests --------------------------------------------------------------------------

    async def request(
        self, method: str, path: str, *, json: object = None, timeout_s: float = API_TIMEOUT_S
    ) -> ServerResponse:
        """Send an API request, with `json` as its body; see `send_api_request`."""
        body = msgspec.json.encode(json) if json is not None else None
        request = HttpRequest(path, {}, body, method)
        if self._api_client is None:
            # Never the connections of jobs: if a job is the second request of a connection and the
            # server resets it, the job is sent again, although the server may have started it. A
            # server in the operator's network gets a connection per request, because some (such as
            # llama.cpp) keep a thread busy for each idle connection.
            self._api_client = self._new_client(reuse=not self.native)
        return await send_api_request(self._api_client, request, timeout_s)

    async def get(self, path: str) -> ServerResponse:
        """Send a `GET` request.

        Raises:
            BackendError: no response, or a status other than 200.
        """
        response = await self.request("GET", path)
        if response.status != 200:
            raise self.status_error(response)
        return response

    async def get_json(self, path: str, body_type: type[BodyT]) -> BodyT:
        """Send a `GET` request and decode the JSON body as `body_type`.

        Raises:
            BackendError: no response, a status other than 200, or a body of another type.
        """
        return (await self.get(path)).decode(body_type)

    async def probe_route(
        self,
        operation: Operation,
        body: Mapping[str, object],
        *,
        inconclusive: Collection[int] = INCONCLUSIVE,
    ) -> ServerResponse:
        """Send an incomplete request, which the server rejects without generating anything.

        How it rejects the request shows whether it has the route. If it accepts the request, it
        generates one token at most.

        Raises:
            BackendError: no response, or an inconclusive status.
        """
        response = await self.request("POST", operation.path, json={**body, **one_token(operation)})
        if response.status in inconclusive:
            raise self.status_error(response)
        return response

    async def health(self) -> BackendHealth:
        """Run `check_health`, measure its duration and convert its errors."""
        started_at = self._clock()
        try:
            await self.check_health()
        except BackendError as error:
            return failed_health(
                error, native=self.native, has_key=self.settings.api_key is not None
            )
        return BackendHealth(True, (self._clock() - started_at) * 1000.0)

    @abstractmethod
    async def check_health(self) -> None:
        """Return if the server accepts jobs.

        Raises:
            BackendError: why the server does not accept jobs.
        """

    @property
    def checks_liveness(self) -> bool:
        """Whether the server is the operator's own: requests to services may cost or be limited."""
        return self.native

    async def check_liveness(self) -> None:
        """Request `liveness_path`, or only connect; see `Backend.check_liveness`."""
        if self.liveness_path is None:
            await check_connection(self.settings.url, self.timeouts.connect_s)
        else:
            await self.get(self.liveness_path)

    async def generate_token(self, model: BackendModel) -> None:
        """Generate one token; see `Backend.generate_token`.

        A status below 500, even one that rejects the request, shows that the server works.
        """
        probe = token_probe(model.operations, model.upstream_id)
        if probe is None:
            return
        operation, body = probe
        response = await self.request(
            "POST", operation.path, json=body, timeout_s=GENERATION_TIMEOUT_S
        )
        if response.status >= 500:
            raise self.status_error(response)

    # --- jobs ----------------------------------------------------------------------------------

    def select_models(self, models: Iterable[BackendModel]) -> list[BackendModel]:
        """Apply the operator's model list and aliases; `list_models` returns the result."""
        selected = select_models(models, self.settings)
        self._upstream_ids = {model.model_id: model.upstream_id for model in selected}
        return selected

    def by_model_id(self, loads: Mapping[str, ModelServerLoad]) -> dict[str, ModelServerLoad]:
        """Return the loads by the ids that jobs use, for the models of the last `select_models`.

        Args:
            loads: the loads by the ids that the server uses.
        """
        listed = self._upstream_ids.items()
        return {name: loads[upstream] for name, upstream in listed if upstream in loads}

    def prepare(self, job: Job, operation: Operation) -> UpstreamRequest:
        """Prepare a job's request for this server.

        If it may take long, `execute` calls it a second time, in a thread; see `offload.call`.

        Raises:
            BadRequest: the request is not one JSON object, or the request policy rejects it.
        """
        upstream_id = self._upstream_ids.get(job.model_id, job.model_id)
        return prepare_request(
            job.request,
            operation,
            upstream_id,
            ask_for_usage=self.asks_for_usage and job.add_usage,
            policy=self.request_policy or default_policy(native=self.native),
            settings=self.settings,
            extra_fields=self.extra_fields(operation, upstream_id),
            max_output_tokens=self.settings.max_output_tokens,
            knows_only_max_tokens=self.knows_only_max_tokens,
            job_id=job.job_id,
        )

    def extra_fields(
        self,
        operation: Operation,  # noqa: ARG002 - used by overrides
        upstream_id: str,  # noqa: ARG002
    ) -> dict[str, msgspec.Raw]:
        """Return fields to add to requests that lack them.

        Args:
            operation: the operation of the request.
            upstream_id: the server's id of its model.
        """
        return {}

    async def execute(self, job: Job, sink: JobSink) -> None:
        """Execute one job; see `Backend.execute`."""
        operation = find_operation(job.format, job.operation)
        if operation is None:  # routing already refuses such jobs
            raise ModelNotFound(f"no operation {job.operation!r} in format {job.format!r}")
        request, least_tokens = await offload.call(
            partial(self._prepare_and_count, job, operation), job.request
        )
        timeouts = JobTimeouts(self.timeouts)
        relay = Relay(
            operation,
            sink,
            timeouts,
            least_input_tokens=least_tokens,
            estimated_start=self.estimates_prompt,
        )
        self._running_timeouts.add(timeouts)
        self._stream_ends.watch(relay)
        try:
            async with timeouts:
                upstream = HttpRequest(operation.path, job_headers(job), request.body)
                error = await relay.run(self._client(), upstream, self._secrets)
                if error is not None:
                    raise self._error_of(error)
        except asyncio.CancelledError:
            if timeouts.last_output_at is None and operation is not Operation.COUNT_TOKENS:
                # Some services bill the prompt of a request whose client disconnects.
                sink.response_ended(ResponseOutcome(least_input_tokens=least_tokens()))
            raise
        finally:
            self._stream_ends.forget(relay)
            self._running_timeouts.discard(timeouts)

    def _prepare_and_count(
        self, job: Job, operation: Operation
    ) -> tuple[UpstreamRequest, Callable[[], int]]:
        """Prepare a job's request; return it, and a function for a lower bound of its tokens.

        The prompts of large requests are counted now, in the thread; others only if the server
        reports no count.
        """
        request, size = self.prepare(job, operation), len(job.request)
        count = partial(least_prompt_tokens, job.request, operation, size - 1)
        if size <= offload.INLINE_BYTES:
            return request, count
        least = count()
        return request, lambda: least

    def _error_of(self, response: ErrorResponse) -> BackendError:
        head = response.head
        wait_s = retry_after_s(head.status, head.headers, self._wall_clock())
        return self.status_error(ServerResponse(head.status, response.body), wait_s)

    def end_waiting_jobs(self, error: BackendError) -> None:
        """End the running jobs that have had no output yet; see `Backend.end_waiting_jobs`."""
        for timeouts in self._running_timeouts:
            if timeouts.last_output_at is None:
                timeouts.fail(error)

    @property
    def waiting_since(self) -> float | None:
        """The loop time since when jobs wait and no job has had output; None if none waits."""
        jobs = self._running_timeouts
        waits = [at for job in jobs if (at := job.waiting_since) is not None]
        if not waits:
            return None
        return max(min(waits), *(job.last_output_at or 0.0 for job in jobs))

    # --- the connection ------------------------------------------------------------------------

    async def close(self) -> None:
        """Close all connections; running jobs fail with `Transport`."""
        for timeouts in self._running_timeouts:
            timeouts.fail(Transport("this backend was closed"))
        self._running_timeouts.clear()
        for client in (self._http_client, self._api_client):
            if client is not None:
                await client.close()

    def _client(self) -> HttpClient:
        """Return the client for jobs.

        Raises:
            Unreachable: the URL is malformed.
        """
        if self._http_client is None:
            self._http_client = self._new_client(reuse=True)
        return self._http_client

    def _new_client(self, *, reuse: bool) -> HttpClient:
        return http_client(
            self.settings.url,
            common_headers(self.settings.api_key),
            reuse=reuse and self.reuses_connections,
            remote=not self.native,
            connect_s=self.timeouts.connect_s,
            proxy=self._proxy,
        )

    def status_error(self, response: ServerResponse, wait_s: float | None = None) -> BadStatus:
        """Return the error for a response without success status.

        Args:
            response: the response; secrets are removed from its body.
            wait_s: the wait that its headers ask for. A wait in its body takes precedence.
        """
        return status_error(response.status, response.body, self._secrets, wait_s)
