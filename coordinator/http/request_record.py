"""What is logged and counted about one request: one line, without content and keys."""

import base64
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from provider_agent.coordinator.http.client_errors import ClientError
from provider_agent.coordinator.reason import Reason
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.event_log import EventLogger
from provider_agent.protocol.formats import Operation

log = EventLogger(__name__)

OK: Final = "ok"
"""The code of a request that was answered completely."""

DISCONNECTED: Final = "client_disconnected"
"""The code of a request whose client did not wait for its end."""

MAX_HIDDEN_TOKENS: Final = 131_072
"""Tokens that neither request nor response shows: of chat templates, of media behind a URL, and of
reasoning. One request with a false count, up to 2^53, would otherwise make a sum useless."""


class RequestRecord(Struct):
    """One request with a valid key, from its headers to its end.

    Attributes:
        operation: the operation of its path.
        clock: monotonic, in seconds.
        began_at: when its headers had arrived.
        queued_until: when its first job was sent, or when it gave up waiting for an agent; None if
            it was refused before.
        first_byte_at: when its response started; None if it did not.
        model_id: the model that its body names; None if the body was refused.
        request_bytes: the size of its body.
        response_bytes: the bytes of the response that were written.
        status: the HTTP status; None if none was sent.
        code: `OK`, `DISCONNECTED`, or the error's code.
        reason: the cause behind the code, if the coordinator knows it.
        jobs: how many jobs were sent for it.
        job: the latest of them.
        key: the id of its API key, if there is a limit per key.
    """

    operation: Operation
    clock: Callable[[], float]
    began_at: float
    queued_until: float | None = None
    first_byte_at: float | None = None
    model_id: str | None = None
    request_bytes: int | None = None
    response_bytes: int = 0
    status: int | None = None
    code: str = DISCONNECTED
    reason: Reason | None = None
    jobs: int = 0
    job: RunningJob | None = None
    key: bytes = b""

    def job_sent(self) -> None:
        """Note that a job is sent now."""
        self.jobs += 1
        self.left_queue()

    def left_queue(self) -> None:
        """Note that the request does not wait for its first agent any more."""
        if self.queued_until is None:
            self.queued_until = self.clock()

    def failed(self, error: ClientError) -> None:
        """Note that the request ends with this error."""
        self.code, self.reason = error.code, error.reason

    def response_started(self, status: int) -> None:
        """Note that the response starts now."""
        self.status = status
        self.first_byte_at = self.clock()

    def seconds_until(self, moment: float | None) -> float | None:
        """Return the seconds from the request's begin to a moment of `clock`."""
        return None if moment is None else moment - self.began_at

    @property
    def tokens(self) -> tuple[int | None, int | None]:
        """The input and output tokens that the agent reported; None where unknown."""
        end = None if self.job is None else self.job.end
        return (None, None) if end is None else (end.usage.input_tokens, end.usage.output_tokens)

    @property
    def plausible_tokens(self) -> tuple[int | None, int | None]:
        """The same, for sums: at most one token per byte, and `MAX_HIDDEN_TOKENS` more."""
        received = 0 if self.job is None or self.job.end is None else self.job.end.total_bytes
        input_tokens, output_tokens = self.tokens
        return _limited(input_tokens, self.request_bytes or 0), _limited(output_tokens, received)

    def log(self, ended_at: float) -> None:
        """Log the request, which ended at `ended_at` of `clock`."""
        job = self.job
        input_tokens, output_tokens = self.tokens
        log.info(
            "request finished",
            operation=self.operation.value,
            model=self.model_id,
            status=None if self.status is None else int(self.status),  # it may be an `HTTPStatus`
            code=self.code,
            reason=None if self.reason is None else self.reason.value,
            agent=None if job is None else base64.b64encode(job.public_key).decode(),
            job=None if job is None else job.job_id.hex(),
            jobs=self.jobs,
            queue_ms=_ms(self.seconds_until(self.queued_until)),
            first_byte_ms=_ms(self.seconds_until(self.first_byte_at)),
            duration_ms=_ms(self.seconds_until(ended_at)),
            request_bytes=self.request_bytes,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
        )


def _limited(tokens: int | None, size: int) -> int | None:
    return None if tokens is None else min(tokens, size + MAX_HIDDEN_TOKENS)


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
