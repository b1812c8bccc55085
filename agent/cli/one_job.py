"""Runs one job on one backend without a coordinator, for `ask` and `check`."""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping

import msgspec
from msgspec import Struct

from provider_agent.adapters.base import (
    Backend,
    BackendError,
    BackendTimeout,
    FlowControl,
    Job,
    Operation,
    ResponseOutcome,
    Usage,
    WireFormat,
)
from provider_agent.adapters.responses.http_errors import describe
from provider_agent.agent.backends.adapter_calls import AdapterDefect, call_adapter
from provider_agent.agent.cli.response_text import ResponseText
from provider_agent.protocol.errors import ErrorCode


def chat_request(
    operation: Operation, model_id: str, prompt: str, *, max_tokens: int, stream: bool = True
) -> bytes:
    """Return a request with one user message; it is the same in both wire formats."""
    request = {
        "model": model_id,
        "max_tokens": max_tokens,
        "stream": stream,
        "messages": [{"role": "user", "content": prompt}],
    }
    if operation not in (Operation.CHAT, Operation.MESSAGES):
        raise ValueError(f"{operation} does not accept chat messages")
    return msgspec.json.encode(request)


class AdapterFailed(BackendError):
    """The adapter has a defect; the agent ends such a job with `internal`, too."""

    code = ErrorCode.INTERNAL


class OneJobResult(Struct):
    """The result of one job.

    Attributes:
        duration_ms: time until the job's end.
        total_bytes: the length of the response.
        first_byte_ms: time until the response started; None without a response.
        usage: the usage that the server reported.
    """

    duration_ms: int = 0
    total_bytes: int = 0
    first_byte_ms: int | None = None
    usage: Usage = Usage()


class _TextSink:
    """A `JobSink` that passes the response's text to `on_text`. It never pauses the source."""

    def __init__(self, wire_format: WireFormat, on_text: Callable[[str], None]) -> None:
        self.job = OneJobResult()
        self._text = ResponseText(wire_format)
        self._on_text = on_text
        self._started_at = time.monotonic()

    def started(
        self, status: int, content_type: str, source: FlowControl, headers: Mapping[str, str]
    ) -> None:
        """See `JobSink.started`."""
        del status, content_type, source, headers
        self.job.first_byte_ms = self._elapsed_ms()

    def send_chunk(self, data: bytes) -> None:
        """See `JobSink.send_chunk`."""
        self.job.total_bytes += len(data)
        if text := self._text.receive_data(data):
            self._on_text(text)

    def response_ended(self, outcome: ResponseOutcome) -> None:
        """See `JobSink.response_ended`."""
        self.job.usage = outcome.usage
        self.job.duration_ms = self._elapsed_ms()

    def _elapsed_ms(self) -> int:
        return round((time.monotonic() - self._started_at) * 1000)


async def run_one_job(
    backend: Backend,
    operation: Operation,
    model_id: str,
    prompt: str,
    *,
    max_tokens: int,
    timeout_s: float,
    on_text: Callable[[str], None] = lambda _: None,
) -> OneJobResult:
    """Run one streamed job; `on_text` is called with each part of the response's text.

    Cancelling it closes the upstream connection.

    Raises:
        BackendError: the job failed, did not end within `timeout_s`, or the adapter has a defect.
    """
    job = Job(
        job_id=uuid.uuid4().bytes,
        model_id=model_id,
        format=operation.wire_format,
        request=chat_request(operation, model_id, prompt, max_tokens=max_tokens),
        deadline_ms=round(timeout_s * 1000),
        operation=operation,
    )
    sink = _TextSink(operation.wire_format, on_text)
    try:
        async with asyncio.timeout(timeout_s):
            await call_adapter(backend.execute, job, sink)
    except BackendError:
        raise
    except TimeoutError as error:
        raise BackendTimeout(f"did not end within {timeout_s:.0f} s") from error
    except AdapterDefect as error:
        raise AdapterFailed(str(error)) from error
    except Exception as error:
        raise AdapterFailed(f"the adapter raised {type(error).__name__}: {error}") from error
    if sink.job.first_byte_ms is None:
        raise AdapterFailed("the adapter returned without a response")
    return sink.job


def statistics(job: OneJobResult) -> str:
    """Return first-byte time, tokens and bytes of a job, in one line."""
    first = job.first_byte_ms
    begin = "no bytes" if first is None else f"first byte after {first} ms"
    usage = job.usage
    tokens = f"tokens {_count(usage.input_tokens)} in, {_count(usage.output_tokens)} out"
    return f"{begin}, {tokens}, {job.total_bytes} bytes"


def _count(tokens: int | None) -> str:
    return "unknown" if tokens is None else str(tokens)


def explain(error: BackendError) -> str:
    """Return an error with the beginning of the server's response, in one line."""
    text = describe(error) if error.advice else str(error)
    body = " ".join(error.body.decode(errors="replace").split())
    return f"{error.code}: {text}" + (f": {body[:300]}" if body else "")
