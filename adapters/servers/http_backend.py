"""What the HTTP servers have in common: one session per backend, questions, and jobs."""

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import ClassVar, Final, TypeVar

import aiohttp
import msgspec

from provider_agent.adapters.base import (
    Backend,
    BackendError,
    BackendHealth,
    BackendModel,
    BackendSettings,
    BackendTimeout,
    BadStatus,
    InvalidResponse,
    Job,
    JobResult,
    JobSink,
    ModelNotFound,
)
from provider_agent.adapters.requests.body import UpstreamRequest, prepare_request
from provider_agent.adapters.responses.http_errors import describe, is_loading, map_aiohttp_errors
from provider_agent.adapters.responses.redaction import redact_bytes
from provider_agent.adapters.responses.relay import Relay
from provider_agent.adapters.responses.retry_after import retry_after_s
from provider_agent.adapters.responses.status_codes import (
    code_for_status,
    retry_advice,
    server_message,
)
from provider_agent.adapters.responses.timeouts import JobTimeouts
from provider_agent.adapters.servers.environment_proxy import environment_proxy
from provider_agent.adapters.servers.model_selection import choose_offered
from provider_agent.protocol.errors import Fault, entry_for
from provider_agent.protocol.formats import Operation, find_operation
from provider_agent.protocol.limits import KIB, MAX_ERROR_BODY_BYTES, MIB
from provider_agent.protocol.trace_context import is_traceparent

QUESTION_TIMEOUT_S: Final = 10.0
"""For health checks, model lists and probes: a busy server answers late, a dead one never."""

MAX_ANSWER_BYTES: Final = 16 * MIB
"""The biggest answer to a question: the full catalogue of a passthrough is about 2 MiB."""

KEEP_ALIVE_S: Final = 4.0
"""llama.cpp and vLLM close idle connections after 5 s; closing first avoids the race."""

READ_AHEAD_BYTES: Final = 32 * KIB
"""aiohttp reads on until it holds twice as much of a paused response, and one read of the event
loop's beyond that. Its own default would cost three quarters of a megabyte per stopped job."""

AnswerT = TypeVar("AnswerT")


class Answer(msgspec.Struct, frozen=True):
    """A server's whole answer to a question.

    Attributes:
        status: HTTP status.
        body: at most `MAX_ANSWER_BYTES`.
        headers: by name, whatever its case.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = MappingProxyType({})

    def decode(self, answer_type: type[AnswerT]) -> AnswerT:
        """The JSON body as `answer_type`.

        Raises:
            InvalidResponse: it is something else.
        """
        try:
            return msgspec.json.decode(self.body, type=answer_type)
        except (ValueError, RecursionError) as error:
            raise InvalidResponse("the server's answer does not have the expected shape") from error


class HttpBackend(Backend):
    """A server that speaks HTTP. Subclasses hold what is particular to theirs.

    Class attributes:
        asks_for_usage: whether a stream's usage is reported only on request.
    """

    asks_for_usage: ClassVar[bool] = True

    def __init__(
        self, settings: BackendSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(settings)
        self._clock = clock
        self._lazy_session: aiohttp.ClientSession | None = None
        self._upstream_ids: dict[str, str] = {}
        self._wall_clock: Callable[[], float] = time.time
        self._running: set[JobTimeouts] = set()

    # --- questions -----------------------------------------------------------------------------

    async def ask(
        self, method: str, path: str, *, json: object = None, timeout_s: float = QUESTION_TIMEOUT_S
    ) -> Answer:
        """Ask the server something that is no job; any status is an answer.

        Raises:
            BackendError: no answer in time, or one over `MAX_ANSWER_BYTES`.
        """
        body = msgspec.json.encode(json) if json is not None else None
        headers = self._headers()
        with map_aiohttp_errors():
            async with (
                asyncio.timeout(timeout_s),
                self._session().request(
                    method,
                    self.settings.url + path,
                    data=body,
                    headers=headers,
                    allow_redirects=False,
                ) as response,
            ):
                answer = await _read_at_most(response, MAX_ANSWER_BYTES + 1)
        if len(answer) > MAX_ANSWER_BYTES:
            raise InvalidResponse(f"the answer to {method} {path} is too big")
        return Answer(response.status, answer, response.headers)

    async def fetch(self, path: str, answer_type: type[AnswerT]) -> AnswerT:
        """`GET` a JSON document.

        Raises:
            BackendError: no answer, a status other than 200, or another shape.
        """
        answer = await self.ask("GET", path)
        if answer.status != 200:
            raise self._bad_status(answer.status, answer.body, None)
        return answer.decode(answer_type)

    async def health(self) -> BackendHealth:
        """Ask the server whether it can take jobs; `check_health` is what a kind defines."""
        began = self._clock()
        try:
            await self.check_health()
        except BackendError as error:
            loading = self.native and is_loading(error)
            timed_out = isinstance(error, BackendTimeout)
            return BackendHealth(False, None, describe(error), loading, timed_out)
        return BackendHealth(True, (self._clock() - began) * 1000.0)

    @abstractmethod
    async def check_health(self) -> None:
        """Return if the server accepts jobs.

        Raises:
            BackendError: why it does not.
        """

    # --- jobs ----------------------------------------------------------------------------------

    def offered(self, models: Iterable[BackendModel]) -> list[BackendModel]:
        """What `list_models` returns; see `offering.choose_offered`."""
        chosen = choose_offered(models, self.settings)
        self._upstream_ids = {model.model_id: model.upstream_id for model in chosen}
        return chosen

    def prepare(self, job: Job, operation: Operation) -> UpstreamRequest:
        """The request as it goes to this server.

        Raises:
            BadRequest: it is not one JSON object, or the request policy refuses it.
        """
        return prepare_request(
            job.request,
            operation,
            self._upstream_ids.get(job.model_id, job.model_id),
            ask_for_usage=self.asks_for_usage,
            policy=self.request_policy,
            mode=self.settings.request_policy,
            extra_fields=self.extra_fields(operation),
        )

    def extra_fields(
        self,
        operation: Operation,  # noqa: ARG002 - for those that override it
    ) -> dict[str, msgspec.Raw]:
        """Fields that the operator's settings put into every request of this operation."""
        return {}

    async def execute(self, job: Job, sink: JobSink) -> JobResult:
        """Run one job: see `Backend.execute`."""
        began = asyncio.get_running_loop().time()
        operation = find_operation(job.format, job.operation)
        if operation is None:
            raise ModelNotFound(f"no operation {job.operation!r} in format {job.format!r}")
        request = self.prepare(job, operation)
        clocks = JobTimeouts(self.timeouts)
        relay = Relay(operation, sink, clocks)
        self._running.add(clocks)
        try:
            with map_aiohttp_errors():
                async with (
                    clocks,
                    await self._post(operation.path, request.body, self._headers(job)) as response,
                ):
                    if not 200 <= response.status < 300:
                        raise await self._refusal(response)
                    await relay.run(response, self._secrets())
        finally:
            self._running.discard(clocks)
        ended = asyncio.get_running_loop().time()
        first = relay.first_byte_at
        return JobResult(
            job_id=job.job_id,
            total_bytes=relay.total_bytes,
            input_tokens=relay.usage.input_tokens,
            output_tokens=relay.usage.output_tokens,
            duration_ms=round((ended - began) * 1000),
            first_byte_ms=None if first is None else round((first - began) * 1000),
        )

    async def _post(
        self, path: str, body: bytes, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """Send a job; once more when an idle connection turned out to be closed."""
        url = self.settings.url + path
        try:
            return await self._session().post(
                url, data=body, headers=headers, allow_redirects=False
            )
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if isinstance(error, aiohttp.ClientConnectorError):
                raise
        return await self._session().post(url, data=body, headers=headers, allow_redirects=False)

    async def _refusal(self, response: aiohttp.ClientResponse) -> BackendError:
        """What a status other than success means, with what the server says about it."""
        body = await _read_error_body(response)
        wait_s = retry_after_s(response.status, response.headers, self._wall_clock())
        return self._bad_status(response.status, body, wait_s)

    # --- the connection ------------------------------------------------------------------------

    async def close(self) -> None:
        """Close every connection; running jobs fail with `Transport`."""
        for clocks in self._running:
            clocks.close()
        self._running.clear()
        session, self._lazy_session = self._lazy_session, None
        if session is not None:
            await session.close()

    def _session(self) -> aiohttp.ClientSession:
        """Made on first use, because aiohttp wants a running loop."""
        if self._lazy_session is None:
            self._lazy_session = aiohttp.ClientSession(
                # Jobs are counted against `max_concurrent`, which grows when the server tells of
                # more slots; a limit here would queue them, and health checks behind them.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    sock_connect=self.timeouts.connect_s,
                ),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=READ_AHEAD_BYTES,
                # Servers beside the agent are reached directly, the internet perhaps by a proxy.
                proxy=None if self.native else environment_proxy(self.settings.url),
            )
        return self._lazy_session

    def _headers(self, job: Job | None = None) -> dict[str, str]:
        """The operator's key and nothing of a client's."""
        headers = {
            "User-Agent": "provider-agent",
            "Content-Type": "application/json",
            "Accept": "text/event-stream, application/json",
            "Accept-Encoding": "identity",
        }
        if self.settings.api_key:
            headers["Authorization"] = f"Bearer {self.settings.api_key}"
        if job is not None:
            headers["X-Request-Id"] = job.job_id.hex()
            if is_traceparent(job.traceparent):
                headers["traceparent"] = job.traceparent
        return headers

    def _secrets(self) -> frozenset[str]:
        return frozenset({self.settings.api_key} if self.settings.api_key else ())

    def _bad_status(self, status: int, body: bytes, wait_s: float | None) -> BackendError:
        clean = redact_bytes(body, MAX_ERROR_BODY_BYTES, self._secrets())
        code = code_for_status(status, clean)
        # What a server says of a client's mistake helps the client; the rest may be about the
        # operator's account.
        said = server_message(clean) if entry_for(code).fault is Fault.CLIENT else ""
        retryable, after_s = retry_advice(clean)
        error = BadStatus(status, clean, code, after_s if after_s is not None else wait_s, said)
        error.retryable = retryable
        return error


async def _read_error_body(response: aiohttp.ClientResponse) -> bytes:
    """What there is of it: the status counts, even when its body breaks off or comes too slowly."""
    body = bytearray()
    with suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(QUESTION_TIMEOUT_S):
            while len(body) < MAX_ERROR_BODY_BYTES:
                data = await response.content.read(MAX_ERROR_BODY_BYTES - len(body))
                if not data:
                    break
                body += data
    return bytes(body)


async def _read_at_most(response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = bytearray()
    while len(body) < limit and (data := await response.content.read(limit - len(body))):
        body += data
    return bytes(body)
