"""What can go wrong with a backend.

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

from typing import ClassVar

from provider_agent.protocol.errors import ErrorCode, entry_for


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
        """Once, for what passes; not for a client's mistake that a server calls its own."""
        return self.status in self.RETRIED_HERE and entry_for(self.code).retryable


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
