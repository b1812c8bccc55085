"""The contract between the agent and an inference server.

A `Backend` is one server with its address and key. It reports its health, its models and its load,
and executes jobs. The agent calls its methods concurrently, from one event loop.

`Job`, `Usage` and the wire formats are defined by the protocol. Errors (`adapters.errors`),
settings (`adapters.settings`) and loads (`adapters.server_load`) belong to the contract too. This
module exports all of them: an adapter outside this project needs no other import.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Protocol

from msgspec import Struct
from msgspec.structs import replace

from provider_agent.adapters.breaker_rule import BreakerRule
from provider_agent.adapters.errors import (
    BackendError,
    BackendTimeout,
    BadRequest,
    BadStatus,
    ErrorInStream,
    InvalidResponse,
    MissingApiKey,
    ModelNotFound,
    PromptTooLong,
    Transport,
    Unreachable,
)
from provider_agent.adapters.requests.policy import (
    NATIVE_POLICY,
    PASSTHROUGH_POLICY,
    RequestPolicy,
)
from provider_agent.adapters.server_load import ModelServerLoad, ModelState, ServerLoad
from provider_agent.adapters.settings import (
    BackendSettings,
    BackendTimeouts,
    MediaUrls,
    PolicyMode,
    TimeoutSettings,
)
from provider_agent.protocol.formats import Operation, WireFormat
from provider_agent.protocol.frames import Usage
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import MAX_LIVE_JOBS

__all__ = [
    "NATIVE_POLICY",
    "PASSTHROUGH_POLICY",
    "Backend",
    "BackendError",
    "BackendHealth",
    "BackendModel",
    "BackendSettings",
    "BackendTimeout",
    "BackendTimeouts",
    "BadRequest",
    "BadStatus",
    "BreakerRule",
    "ErrorInStream",
    "FlowControl",
    "InvalidResponse",
    "Job",
    "JobSink",
    "MediaUrls",
    "MissingApiKey",
    "ModelNotFound",
    "ModelServerLoad",
    "ModelState",
    "Operation",
    "PolicyMode",
    "PromptTooLong",
    "RequestPolicy",
    "ResponseOutcome",
    "ServerLoad",
    "TimeoutSettings",
    "Transport",
    "Unreachable",
    "Usage",
    "WireFormat",
]


class BackendModel(Struct, frozen=True, kw_only=True):
    """One model that a backend serves now.

    Attributes:
        model_id: the id that jobs use.
        context_window: tokens that a request can use on this server, which may be fewer than the
            model was trained with; None if unknown.
        native: True on the operator's own hardware, False for a remote passthrough.
        operations: the operations that the server supports for this model without translation by
            the agent.
        upstream_id: the id that the server uses.
        input_price_per_1m: the operator's cost of input tokens, in millionths of a US dollar per
            million tokens; None if unknown.
        output_price_per_1m: the same for output tokens.
        price_unknown: why the prices are unknown, as a text for the operator; "" if the reason is
            unknown, too. A passthrough's model is then offered only at a configured price.
        withheld: why the model is not offered, as a text for the operator; "" if it is offered.
        max_output_tokens: the most tokens of one response; None if the server does not report it.
        input_kinds: what requests may contain: `text`, `image`, `audio`, …; None if not reported.
        tools: whether requests can offer tools; None if not reported.
        json_schema: whether requests can require a JSON schema; None if not reported.
        reasoning: whether the model can reason before it answers; None if not reported.
    """

    model_id: str
    context_window: int | None
    native: bool
    operations: frozenset[Operation]
    upstream_id: str
    input_price_per_1m: int | None = None
    output_price_per_1m: int | None = None
    price_unknown: str = ""
    withheld: str = ""
    max_output_tokens: int | None = None
    input_kinds: frozenset[str] | None = None
    tools: bool | None = None
    json_schema: bool | None = None
    reasoning: bool | None = None

    @property
    def formats(self) -> frozenset[WireFormat]:
        """The wire formats of `operations`."""
        return frozenset(operation.wire_format for operation in self.operations)


class BackendHealth(Struct, frozen=True):
    """The outcome of one health check.

    Attributes:
        reachable: whether the server accepts jobs.
        latency_ms: duration of a successful check; None if it failed.
        last_error: why the check failed and what to do about it; None if it succeeded.
        loading: whether the check failed because the server is starting or loading its model.
        timed_out: whether the check failed because the server did not respond in time.
        key_refused: whether the check failed because the server refused the key.
        wrong_server: whether the response was not that of a server of this kind.
        answered: whether the check failed because of the HTTP status of a response.
        advice: what the operator can do, the end of `last_error`; "" if that depends on the server.
    """

    reachable: bool
    latency_ms: float | None = None
    last_error: str | None = None
    loading: bool = False
    timed_out: bool = False
    key_refused: bool = False
    wrong_server: bool = False
    answered: bool = False
    advice: str = ""


class FlowControl(Protocol):
    """Pauses the source of a response while the window is full. Both methods are idempotent."""

    def pause_reading(self) -> None:
        """Stop reading from the server until `resume_reading` is called."""
        ...

    def resume_reading(self) -> None:
        """Continue reading from the server."""
        ...


class ResponseOutcome(Struct, frozen=True):
    """What is known about the relayed bytes of a response that may be incomplete.

    Attributes:
        usage: the tokens that the server reported in these bytes.
        error_relayed: whether the bytes contain the server's own error, so that the client receives
            it.
        between_events: whether an event can be appended: the bytes end between two events of an
            event stream, or there are no bytes.
        least_input_tokens: a lower bound where `usage` lacks the input tokens; 0 if unknown.
        least_output_tokens: a lower bound where `usage` lacks the output tokens, or may not count
            all of them. Both bounds count against the operator's limits only.
    """

    usage: Usage = Usage()
    error_relayed: bool = False
    between_events: bool = True
    least_input_tokens: int = 0
    least_output_tokens: int = 0


class JobSink(Protocol):
    """Receives the response of one job.

    The methods are not coroutines: a chunk reaches the outbox without waking up another task.
    """

    def started(
        self, status: int, content_type: str, source: FlowControl, headers: Mapping[str, str]
    ) -> None:
        """Announce the response. Called once, before the first `send_chunk`.

        Args:
            status: HTTP status.
            content_type: value of the `Content-Type` header.
            source: pauses and resumes this response.
            headers: all headers of the response. `protocol.response_headers` chooses those that
                the client receives.
        """
        ...

    def send_chunk(self, data: bytes) -> None:
        """Receive the next bytes, exactly as the server sent them.

        May call `source.pause_reading()`. The adapter may still deliver what it has read already.
        """
        ...

    def response_ended(self, outcome: ResponseOutcome) -> None:
        """Receive what is known about the response. Called once after the last `send_chunk`.

        If `started` was called, this is called whether the response succeeds, fails or is
        cancelled, before `Backend.execute` returns or raises. Without `started`, it may be called
        with the tokens that a failed response or a cancelled job used.
        """
        ...


class Backend(ABC):
    """One inference server. Each subclass is the adapter for one kind of server.

    Constructing a backend does no I/O; it connects on first use.

    Class attributes describe the kind:
        kind: the name in `agent.toml`.
        native: True for a server on the operator's own hardware. False for a passthrough: a remote
            service that requires the operator's API key.
        default_url: the address if the operator sets none; "" if the kind has no default.
        requires_url: whether the operator must set the address.
        accepts_formats: whether the operator may set the wire formats, because the agent cannot
            detect all of them.
        breaker_rule: when repeated failures open a circuit breaker.
        confirms_failures: whether `generate_token` shows if a model works. Repeated failures of
            jobs then stop a model only if `generate_token` fails too.
        request_policy: the request fields that are sent to the server; None selects
            `NATIVE_POLICY` or `PASSTHROUGH_POLICY`.
        default_max_output_tokens: limit of the output tokens of a job if the operator sets none.
        default_max_concurrent: limit of concurrent jobs if the operator sets none.
        default_timeouts: timeouts of a job where the operator sets none.

    Attributes:
        settings: the operator's settings, with the defaults of the kind for `url` and
            `max_output_tokens`.
        id: `<kind>:<url>` for a native server, `<kind>` for a passthrough or without a URL.
        max_concurrent: limit of concurrent jobs. `list_models` may update it.
        timeouts: timeouts of this backend's jobs.
        version: the server's version as last reported; "" if unknown.
    """

    kind: ClassVar[str]
    native: ClassVar[bool] = True
    default_url: ClassVar[str] = ""
    requires_url: ClassVar[bool] = False
    accepts_formats: ClassVar[bool] = False
    breaker_rule: ClassVar[BreakerRule] = BreakerRule()
    confirms_failures: ClassVar[bool] = False
    request_policy: ClassVar[RequestPolicy | None] = None
    default_max_output_tokens: ClassVar[int | None] = None
    default_max_concurrent: ClassVar[int] = 8
    default_timeouts: ClassVar[BackendTimeouts] = BackendTimeouts()

    def __init__(self, settings: BackendSettings) -> None:
        settings = replace(
            settings,
            url=settings.url or self.default_url,
            max_output_tokens=settings.max_output_tokens or self.default_max_output_tokens,
        )
        self.settings = settings
        self.id = f"{self.kind}:{settings.url}" if self.native and settings.url else self.kind
        self.max_concurrent = settings.max_concurrent or self.default_max_concurrent
        self.timeouts = self.default_timeouts.overridden(settings.timeouts)
        self.version = ""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    def adopt_capacity(self, reported: int | None) -> None:
        """Use the number of jobs that the server runs at once, unless the operator set a limit.

        An unknown or impossible number selects the default of the kind.
        """
        if self.settings.max_concurrent is None:
            if reported is None or not 1 <= reported <= MAX_LIVE_JOBS:
                reported = self.default_max_concurrent
            self.max_concurrent = reported

    @abstractmethod
    async def health(self) -> BackendHealth:
        """Check whether the server accepts jobs.

        Returns a failed `BackendHealth` instead of raising `BackendError`.
        """

    @abstractmethod
    async def list_models(self) -> list[BackendModel]:
        """Return the server's current models in a stable order.

        The list includes models that are not offered; their `withheld` gives the reason.

        Raises:
            BackendError: the server did not respond, or the response is invalid.
        """

    @property
    def checks_liveness(self) -> bool:
        """Whether `check_liveness` costs so little that it may be called every few seconds."""
        return False

    async def check_liveness(self) -> None:
        """Send the smallest request that a live server answers, over a connection of its own.

        Implemented by backends with `checks_liveness`.

        Raises:
            BackendError: the server did not answer, or answered that it does not accept jobs.
        """
        raise NotImplementedError

    async def load(self) -> ServerLoad | None:
        """Return the server's load; None if it does not report any.

        Raises:
            BackendError: the server did not respond, or the response is invalid.
        """
        return None

    async def generate_token(self, model: BackendModel) -> None:
        """Generate one token, to find out whether a model works after repeated failures of jobs.

        Implemented by backends with `confirms_failures`.

        Raises:
            BackendTimeout: no response; the server may only be busy.
            BackendError: the server failed.
        """
        raise NotImplementedError

    def end_waiting_jobs(self, error: BackendError) -> None:  # noqa: B027 - optional
        """End the running jobs that have had no output yet: their `execute` raises `error`."""

    @property
    def waiting_since(self) -> float | None:
        """The loop time since when jobs wait and no job has had output; None if none waits.

        A job that is paused, because its client does not read, does not wait for the server.
        """
        return None

    @abstractmethod
    async def execute(self, job: Job, sink: JobSink) -> None:
        """Execute one job: relay the response to `sink`, and return at its successful end.

        Cancellation closes the connection to the server before `CancelledError` propagates. The
        server then stops generating.

        Raises:
            BackendError: the job failed. The client still receives the bytes that were passed to
                the sink.
        """

    async def close(self) -> None:  # noqa: B027 - a backend without connections has nothing to do
        """Close all connections. Running `execute` calls raise `Transport`."""
