"""Errors of backends.

::

    BackendError                base class; carries a code of the protocol's error registry
    ├── Unreachable             the connection could not be opened
    ├── Transport               the connection was lost before the response was complete
    ├── BackendTimeout          a timeout expired; the message names it
    ├── BadStatus               the response has an HTTP status other than success
    ├── ErrorInStream           a response with a success status contains an error
    ├── InvalidResponse         the response is malformed or incomplete
    ├── ModelNotFound           the server does not have the model
    ├── MissingApiKey           the operator's API key is not set
    ├── BadRequest              the client's request is invalid and was not sent
    │   └── RefusedRequest      the same, with a reason that the log may quote
    └── PromptTooLong           the prompt exceeds the context window; the server would truncate it
"""

from typing import ClassVar

from provider_agent.protocol.errors import ErrorCode, entry_for


class BackendError(Exception):
    """A job or another request to a backend failed.

    Attributes:
        code: entry of the protocol's error registry.
        status: the server's HTTP error status; None without one.
        body: the beginning of the response body, without secrets.
        retry_after_s: seconds to wait before the next request; None if the server gave no time.
        log_message: the message without any text of the client or of the server; "" for none.
        retryable: whether another backend or provider may be tried; None: the registry's default
            for `code`.
        details: the message for the operator, if it differs: clients may see the message, so it
            names no host.
        advice: what the operator can do; "" if that depends on the server.
    """

    code: ErrorCode = ErrorCode.BACKEND_ERROR
    status: int | None = None
    body: bytes = b""
    retry_after_s: float | None = None
    log_message: str = ""
    retryable: bool | None = None
    details: str = ""
    advice: str = ""

    @property
    def retry_here(self) -> bool:
        """Whether the same backend may run the job once more, immediately."""
        return False


class Unreachable(BackendError):
    """The connection could not be opened: refused, unknown host, or failed TLS handshake."""

    code = ErrorCode.BACKEND_UNREACHABLE


class Transport(BackendError):
    """The connection was lost before the response was complete."""

    code = ErrorCode.BACKEND_UNREACHABLE


class BackendTimeout(BackendError):
    """A timeout expired; the message names it."""

    code = ErrorCode.BACKEND_TIMEOUT


class BadStatus(BackendError):
    """The response has an HTTP status other than success."""

    RETRIED_HERE: ClassVar[frozenset[int]] = frozenset({408, 500, 502, 504, 524, 529})
    """Temporary failures of a server or of a proxy in front of it: one retry often succeeds."""

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
        """Whether the status is temporary and the body does not show that the request caused it."""
        return self.status in self.RETRIED_HERE and entry_for(self.code).retryable


class ErrorInStream(BackendError):
    """A response that started with a success status contains an error."""

    def __init__(self, body: bytes, code: ErrorCode, server_message: str = "") -> None:
        text = "the server reported an error inside its response"
        super().__init__(f"{text}: {server_message}" if server_message else text)
        self.body = body
        self.code = code


class InvalidResponse(BackendError):
    """The response is malformed, or ended before it was complete."""

    code = ErrorCode.INVALID_RESPONSE


class ModelNotFound(BackendError):
    """The server does not have the model."""

    code = ErrorCode.MODEL_NOT_LOADED


class MissingApiKey(BackendError):
    """The operator's API key for this backend is not set."""

    code = ErrorCode.AUTH_REJECTED_BY_BACKEND


class BadRequest(BackendError):
    """The client's request is invalid: not one JSON object, or against the request policy."""

    code = ErrorCode.BAD_REQUEST


class RefusedRequest(BadRequest):
    """A `BadRequest` whose reason may be logged, because it has no text of the client.

    Args:
        message: for the client.
        log_message: required if `message` contains a name or value that the client has chosen.
    """

    def __init__(self, message: str, log_message: str | None = None) -> None:
        super().__init__(message)
        self.log_message = message if log_message is None else log_message


class PromptTooLong(BackendError):
    """The prompt exceeds the context window, and the server would truncate it silently.

    Attributes:
        at_least: lower bound of the prompt's size, in tokens.
        window: the model's context window, in tokens.
    """

    code = ErrorCode.CONTEXT_LENGTH_EXCEEDED

    def __init__(self, at_least: int, window: int) -> None:
        super().__init__(
            f"the request needs at least {at_least} tokens, the model's context window has {window}"
        )
        self.at_least = at_least
        self.window = window
