"""The contract between the agent and an inference server.

A `Backend` is one server with its address and key. It says whether it is healthy and what it
serves, and runs one job at a time per `execute` call, any number of calls at once. Jobs, results
and wire formats are the protocol's own.

::

    BackendError                what went wrong, with its code of the error registry
    ├── Unreachable             no connection could be made
    ├── Transport               the connection broke before the response was complete
    ├── BackendTimeout          a clock ran out; the message names which
    ├── BadStatus               an HTTP status other than success
    ├── ErrorInStream           an error inside a response that began as a success
    ├── InvalidResponse         not what such a server should answer, or an early end
    ├── ModelNotFound           the server does not know the model
    ├── MissingApiKey           the operator's key is not set
    ├── BadRequest              the job's request cannot be sent to any server
    └── PromptTooLong           it cannot fit into the model's window, and the server would cut it
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import ClassVar, Protocol

from msgspec import Struct

from protocol.errors import ErrorCode
from protocol.formats import Operation, WireFormat
from protocol.frames import Job, JobResult

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
    "ServerLoad",
    "TimeoutSettings",
    "Transport",
    "Unreachable",
    "WireFormat",
]


class BackendTimeouts(Struct, frozen=True, kw_only=True):
    """The four clocks of a job, in seconds; each names itself in the error it raises.

    Attributes:
        connect_s: for a connection to open.
        first_byte_s: from the request to the first byte of output; queueing and prefill count.
        silence_s: between two reads once output has begun; comments count as a sign of life.
        total_s: for the whole job, beside the job's own deadline.
    """

    connect_s: float = 10.0
    first_byte_s: float = 300.0
    silence_s: float = 120.0
    total_s: float = 3600.0

    def overridden(self, settings: "TimeoutSettings") -> "BackendTimeouts":
        """These clocks, with those that the operator has set."""
        return BackendTimeouts(
            connect_s=settings.connect_s or self.connect_s,
            first_byte_s=settings.first_byte_s or self.first_byte_s,
            silence_s=settings.silence_s or self.silence_s,
            total_s=settings.total_s or self.total_s,
        )


class TimeoutSettings(Struct, frozen=True, kw_only=True):
    """The clocks that an operator has set; None: the kind's own. See `BackendTimeouts`."""

    connect_s: float | None = None
    first_byte_s: float | None = None
    silence_s: float | None = None
    total_s: float | None = None


class PolicyMode(StrEnum):
    """What happens to request fields that spend the operator's money; see `request_policy`."""

    STRICT = "strict"
    STRIP = "strip"
    PASS = "pass"  # noqa: S105 - no password


class BackendSettings(Struct, frozen=True, kw_only=True):
    """What an operator says about one backend; no value here comes from a job.

    Attributes:
        kind: which adapter.
        url: base address without a trailing slash or `/v1`; "" for kinds without one.
        api_key: the operator's key, or None. Never logged: `repr` leaves it out.
        models: which of the server's models are offered (shell-style globs); None: all that fit.
        aliases: advertised id → the server's id of the same model.
        formats: spoken by servers that cannot be asked (`openai_compatible`).
        max_concurrent: jobs at once; None: the kind's own default.
        timeouts: the clocks that differ from the kind's own.
        request_policy: what happens to fields that spend the operator's money.
        venice_system_prompt: whether Venice may put its own system prompt before the buyer's.
    """

    kind: str
    url: str = ""
    api_key: str | None = None
    models: tuple[str, ...] | None = None
    aliases: Mapping[str, str] = MappingProxyType({})
    formats: tuple[WireFormat, ...] = (WireFormat.OPENAI,)
    max_concurrent: int | None = None
    timeouts: TimeoutSettings = TimeoutSettings()
    request_policy: PolicyMode = PolicyMode.STRIP
    venice_system_prompt: bool = False

    def __repr__(self) -> str:
        key = "set" if self.api_key else "none"
        return f"<BackendSettings {self.kind} {self.url} api_key={key}>"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """For rich, which would take a Struct's own, with the key."""
        key = "set" if self.api_key else "none"
        return [("kind", self.kind), ("url", self.url), ("api_key", key)]


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
    """One inference server.

    Attributes:
        kind: which sort of server; the name in `agent.toml`.
        native: True for the operator's own hardware, False for a remote passthrough.
        id: `<kind>:<url>` for local servers, `<kind>` for remote passthroughs.
        max_concurrent: jobs it takes at once.
        default_max_concurrent: the same, when the operator does not say.
        timeouts: the clocks of its jobs.
        default_timeouts: the same, where the operator does not say.
        version: of the server, as it told last; "" when it does not.
    """

    kind: ClassVar[str]
    native: ClassVar[bool] = True
    default_max_concurrent: ClassVar[int] = 8
    default_timeouts: ClassVar[BackendTimeouts] = BackendTimeouts()

    def __init__(self, settings: BackendSettings) -> None:
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


class BackendError(Exception):
    """What went wrong with a backend.

    Attributes:
        code: of the error registry.
        status: the server's HTTP status, when it answered.
        body: the beginning of what it answered, free of secrets.
        retry_after_s: when it may be asked again, when it said so.
        retryable: whether another backend or provider may be tried; None: as the registry says.
    """

    code: ErrorCode = ErrorCode.BACKEND_ERROR
    status: int | None = None
    body: bytes = b""
    retry_after_s: float | None = None
    retryable: bool | None = None

    @property
    def retry_here(self) -> bool:
        """Whether the same server may be asked once more with the same job, at once."""
        return False


class Unreachable(BackendError):
    """No connection could be made: refused, no such host, or a failed TLS handshake."""

    code = ErrorCode.BACKEND_UNREACHABLE


class Transport(BackendError):
    """The connection broke before the response was complete."""

    code = ErrorCode.BACKEND_UNREACHABLE


class BackendTimeout(BackendError):
    """A clock ran out."""

    code = ErrorCode.BACKEND_TIMEOUT


class BadStatus(BackendError):
    """The server answered with a status other than success."""

    RETRIED_HERE: ClassVar[frozenset[int]] = frozenset({408, 500, 502, 504, 524, 529})
    """Passing troubles of a server or of what stands before it: one more attempt often helps."""

    def __init__(
        self,
        status: int,
        body: bytes,
        code: ErrorCode,
        retry_after_s: float | None = None,
        server_message: str = "",
    ) -> None:
        text = f"the server answered with status {status}"
        super().__init__(f"{text}: {server_message}" if server_message else text)
        self.status = status
        self.body = body
        self.code = code
        self.retry_after_s = retry_after_s

    @property
    def retry_here(self) -> bool:
        """Once, for what passes."""
        return (
            self.status in self.RETRIED_HERE and self.code is not ErrorCode.CONTEXT_LENGTH_EXCEEDED
        )


class ErrorInStream(BackendError):
    """The server began its answer as a success and then reported an error in it."""

    def __init__(self, body: bytes, code: ErrorCode, server_message: str = "") -> None:
        text = "the server reported an error inside its answer"
        super().__init__(f"{text}: {server_message}" if server_message else text)
        self.body = body
        self.code = code


class InvalidResponse(BackendError):
    """The server's answer is not what such a server should send, or ended early."""

    code = ErrorCode.INVALID_RESPONSE


class ModelNotFound(BackendError):
    """The server does not know the model."""

    code = ErrorCode.MODEL_NOT_LOADED


class MissingApiKey(BackendError):
    """The operator's key for this backend is not set."""

    code = ErrorCode.AUTH_REJECTED_BY_BACKEND


class BadRequest(BackendError):
    """The job's request cannot be sent: it is not one JSON object."""

    code = ErrorCode.BAD_REQUEST


class PromptTooLong(BackendError):
    """The request cannot fit into the model's window, and the server would cut it without a word.

    Attributes:
        at_least: tokens that it needs; an estimate that is rather too low.
        window: tokens that the model has.
    """

    code = ErrorCode.CONTEXT_LENGTH_EXCEEDED

    def __init__(self, at_least: int, window: int) -> None:
        super().__init__(
            f"the request needs at least {at_least} tokens, the model's context window has {window}"
        )
        self.at_least = at_least
        self.window = window
