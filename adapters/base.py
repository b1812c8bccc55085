"""The contract between the agent and an inference server.

A `Backend` is one server with its address and key. It says whether it is healthy and what it
serves, and runs one job at a time per `execute` call, any number of calls at once. Jobs, results
and wire formats are the protocol's own. The errors are in `adapters.errors`, the settings in
`adapters.settings`; both belong to the contract and can be imported from here.
"""

from abc import ABC, abstractmethod
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
from provider_agent.adapters.requests.policy import RequestPolicy
from provider_agent.adapters.settings import (
    BackendSettings,
    BackendTimeouts,
    PolicyMode,
    TimeoutSettings,
)
from provider_agent.protocol.formats import Operation, WireFormat
from provider_agent.protocol.frames import Job, JobResult

__all__ = [
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
    "JobResult",
    "JobSink",
    "MissingApiKey",
    "ModelNotFound",
    "Operation",
    "PolicyMode",
    "PromptTooLong",
    "RequestPolicy",
    "ServerLoad",
    "TimeoutSettings",
    "Transport",
    "Unreachable",
    "WireFormat",
]


class BackendModel(Struct, frozen=True, kw_only=True):
    """One model that a backend serves now.

    Attributes:
        model_id: what jobs call it.
        context_window: the effective one, in tokens; None when the server does not tell.
        native: True on the operator's own hardware, False for a remote passthrough.
        operations: what the server natively speaks for this model.
        upstream_id: what the server calls it.
        input_price_per_1m: what the operator pays, in millionths of a US dollar per million tokens.
        output_price_per_1m: the same for output tokens.
        withheld: why it is not offered, for the operator; "" when it is.
    """

    model_id: str
    context_window: int | None
    native: bool
    operations: frozenset[Operation]
    upstream_id: str
    input_price_per_1m: int | None = None
    output_price_per_1m: int | None = None
    withheld: str = ""

    @property
    def formats(self) -> frozenset[WireFormat]:
        """The wire formats natively spoken for this model."""
        return frozenset(operation.wire_format for operation in self.operations)


class BackendHealth(Struct, frozen=True):
    """The outcome of one health check.

    Attributes:
        reachable: whether jobs can be sent.
        latency_ms: how long the check took; None when it failed before an answer.
        last_error: what is wrong and what to do about it; None when nothing is.
        loading: nothing is wrong yet: the server starts or loads its model.
        timed_out: it failed because no answer came in time.
    """

    reachable: bool
    latency_ms: float | None = None
    last_error: str | None = None
    loading: bool = False
    timed_out: bool = False


class ServerLoad(Struct, frozen=True):
    """What a server says of its own load, jobs of others included; None: it does not say.

    Attributes:
        running: requests that it works on.
        waiting: requests that wait in its queue.
        cache_used: share (0…1) of its key-value cache.
    """

    running: int | None = None
    waiting: int | None = None
    cache_used: float | None = None


class FlowControl(Protocol):
    """The source of a response, which a full window pauses. Both calls may be repeated."""

    def pause_reading(self) -> None:
        """Read no more from this server connection until `resume_reading`."""
        ...

    def resume_reading(self) -> None:
        """Go on reading."""
        ...


class JobSink(Protocol):
    """Where a response goes. Plain calls, not coroutines: no task wakes up per chunk."""

    def started(self, status: int, content_type: str, source: FlowControl) -> None:
        """The first bytes follow. Called once, before the first `send_chunk`."""
        ...

    def send_chunk(self, data: bytes) -> None:
        """The next bytes, exactly as the server sent them.

        May call `source.pause_reading()` before it returns; what the source still delivers after
        that is accepted.
        """
        ...


class Backend(ABC):
    """One inference server. A subclass is the adapter of one kind of server.

    Class attributes describe the kind:
        kind: the name in `agent.toml`.
        native: True for the operator's own hardware. False for a passthrough, a remote service that
            is identified by the operator's key, which is then required.
        default_url: the address when the operator sets none; "": the kind has no default.
        requires_url: whether the operator must set the address.
        accepts_formats: whether the operator may set the wire formats, because this kind cannot be
            asked for them.
        breaker_rule: when failures take a backend of this kind out of service.
        request_policy: request fields that are not forwarded, unless the operator allows it.
        default_max_concurrent: concurrent jobs when the operator sets no limit.
        default_timeouts: timeouts of a job, where the operator sets none.

    Attributes:
        id: `<kind>:<url>` for a native server, `<kind>` for a passthrough.
        max_concurrent: concurrent jobs that it accepts.
        timeouts: of its jobs.
        version: of the server, from its last health check; "" if unknown.
    """

    kind: ClassVar[str]
    native: ClassVar[bool] = True
    default_url: ClassVar[str] = ""
    requires_url: ClassVar[bool] = False
    accepts_formats: ClassVar[bool] = False
    breaker_rule: ClassVar[BreakerRule] = BreakerRule()
    request_policy: ClassVar[RequestPolicy] = RequestPolicy()
    default_max_concurrent: ClassVar[int] = 8
    default_timeouts: ClassVar[BackendTimeouts] = BackendTimeouts()

    def __init__(self, settings: BackendSettings) -> None:
        if not settings.url and self.default_url:
            settings = replace(settings, url=self.default_url)
        self.settings = settings
        self.id = f"{self.kind}:{settings.url}" if self.native and settings.url else self.kind
        self.max_concurrent = settings.max_concurrent or self.default_max_concurrent
        self.timeouts = self.default_timeouts.overridden(settings.timeouts)
        self.version = ""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    @abstractmethod
    async def health(self) -> BackendHealth:
        """Ask the server whether it can take jobs. Never raises for a server's fault."""

    @abstractmethod
    async def list_models(self) -> list[BackendModel]:
        """What the server has now, in a stable order; what is not offered says why (`withheld`).

        Raises:
            BackendError: the server did not answer, or not as such a server should.
        """

    async def load(self) -> ServerLoad | None:
        """What the server says of its load; None when this kind says nothing.

        Raises:
            BackendError: the server did not answer, or not as such a server should.
        """
        return None

    @abstractmethod
    async def execute(self, job: Job, sink: JobSink) -> JobResult:
        """Run one job: relay the response to `sink`, then tell how it went.

        Cancelling it closes the upstream connection before it returns, which stops generation.

        Raises:
            BackendError: the job failed. What has reached the sink stays valid.
        """

    async def close(self) -> None:  # noqa: B027 - a backend without connections has nothing to do
        """Close what is open. Running `execute` calls fail with `Transport`."""
