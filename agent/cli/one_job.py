"""Runs one job on one backend without a coordinator: what `ask` and `check` share."""

import asyncio
import uuid
from collections.abc import Callable

import msgspec

from provider_agent.adapters.base import (
    Backend,
    BackendError,
    BackendTimeout,
    FlowControl,
    Job,
    JobResult,
    Operation,
    WireFormat,
)
from provider_agent.agent.cli.answer_text import AnswerText


def chat_request(
    operation: Operation, model_id: str, prompt: str, *, max_tokens: int, stream: bool = True
) -> bytes:
    """One user message as a request of this operation; both formats look alike here."""
    request = {
        "model": model_id,
        "max_tokens": max_tokens,
        "stream": stream,
        "messages": [{"role": "user", "content": prompt}],
    }
    if operation not in (Operation.CHAT, Operation.MESSAGES):
        raise ValueError(f"{operation} takes no chat message")
    return msgspec.json.encode(request)


class _TextSink:
    """Shows a response instead of relaying it. The terminal is fast enough: it never pauses."""

    def __init__(self, wire_format: WireFormat, show: Callable[[str], None]) -> None:
        self._text = AnswerText(wire_format)
        self._show = show

    def started(self, status: int, content_type: str, source: FlowControl) -> None:
        """See `JobSink.started`."""

    def send_chunk(self, data: bytes) -> None:
        """See `JobSink.send_chunk`."""
        if text := self._text.feed(data):
            self._show(text)


async def run_one_job(
    backend: Backend,
    operation: Operation,
    model_id: str,
    prompt: str,
    *,
    max_tokens: int,
    timeout_s: float,
    show: Callable[[str], None] = lambda _: None,
) -> JobResult:
    """Run one streamed job and show its text as it comes.

    Cancelling it closes the upstream connection, as for any job.

    Raises:
        BackendError: the job failed, or was not done after `timeout_s`.
    """
    job = Job(
        job_id=uuid.uuid4().bytes,
        model_id=model_id,
        format=operation.wire_format,
        request=chat_request(operation, model_id, prompt, max_tokens=max_tokens),
        deadline_ms=round(timeout_s * 1000),
        operation=operation,
    )
    try:
        async with asyncio.timeout(timeout_s):
            return await backend.execute(job, _TextSink(operation.wire_format, show))
    except TimeoutError as error:
        raise BackendTimeout(f"not done after {timeout_s:.0f} s") from error


def figures(result: JobResult) -> str:
    """How a job went, in one line."""
    first = result.first_byte_ms
    begin = "no byte came" if first is None else f"first byte after {first} ms"
    tokens = f"tokens {_count(result.input_tokens)} in, {_count(result.output_tokens)} out"
    return f"{begin}, {tokens}, {result.total_bytes} bytes"


def _count(tokens: int | None) -> str:
    return "unknown" if tokens is None else str(tokens)


def explain(error: BackendError) -> str:
    """An error with the server's own words, in one line."""
    body = " ".join(error.body.decode(errors="replace").split())
    return f"{error.code}: {error}" + (f": {body[:300]}" if body else "")
