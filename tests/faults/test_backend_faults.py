"""The fault matrix: server faults on the wire, and the job error that each one causes."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pytest

from provider_agent.adapters.base import (
    BackendError,
    BackendTimeout,
    ErrorInStream,
    InvalidResponse,
    Operation,
    TimeoutSettings,
    Transport,
    Unreachable,
)
from provider_agent.protocol.errors import ErrorCode, Fault, entry_for
from tests.kit.fakes.frames import DONE
from tests.kit.raw_jobs import (
    BUSY,
    COMMENT,
    FRAMES,
    LONG_LINE,
    STREAM_HEAD,
    backend_at,
    first_frames,
    job_for,
    parametrize_operations,
    success_reply,
)
from tests.kit.raw_server import (
    ARRIVES_S,
    AfterReply,
    RawServer,
    Reply,
    chunked,
    head,
    stream,
    whole,
)
from tests.kit.sink import CollectingSink
from tests.kit.virtual_time import in_virtual_time

TIMEOUTS: Final = TimeoutSettings(first_byte_s=300.0, silence_s=120.0, total_s=480.0)

Bytes = Callable[[Operation], bytes]
BuildReply = Callable[[Operation], Reply]


def no_bytes(_: Operation) -> bytes:
    """No bytes: the fault precedes the first byte of output, so the job can still fail over."""
    return b""


def always(value: Reply) -> BuildReply:
    return lambda _: value


@dataclass(frozen=True)
class FaultCase:
    """A fault of a server and the expected outcome of the job.

    Attributes:
        reply: builds the server's reply.
        error: the type of the job's error.
        code: the code of the error.
        message: a part of the error's text.
        relayed: builds the bytes that reach the sink.
        abandoned: whether the agent must close the connection before the reply is complete.
    """

    reply: BuildReply
    error: type[BackendError]
    code: ErrorCode
    message: str = ""
    relayed: Bytes = no_bytes
    abandoned: bool = False


BROKEN: Final = (Transport, ErrorCode.BACKEND_UNREACHABLE)
TIMED_OUT: Final = (BackendTimeout, ErrorCode.BACKEND_TIMEOUT)
INVALID: Final = (InvalidResponse, ErrorCode.INVALID_RESPONSE)
OVERLOADED: Final = (ErrorInStream, ErrorCode.BACKEND_OVERLOADED)
FAILED: Final = (ErrorInStream, ErrorCode.BACKEND_ERROR)

FAULTS: Final = {
    # --- the connection
    "reset before headers": FaultCase(always(Reply(then=AfterReply.RESET)), *BROKEN, "without"),
    "closed before headers": FaultCase(always(Reply(then=AfterReply.CLOSE)), *BROKEN, "without"),
    "closed in the headers": FaultCase(
        always(Reply(STREAM_HEAD[:30], AfterReply.CLOSE)), *BROKEN, "without"
    ),
    "closed after headers": FaultCase(
        always(Reply(STREAM_HEAD, AfterReply.CLOSE)), *BROKEN, "middle"
    ),
    "reset mid-chunk": FaultCase(
        lambda op: stream(FRAMES[op][:3], end=b"400\r\n", then=AfterReply.RESET),
        *BROKEN,
        relayed=first_frames(3),
    ),
    "closed mid-chunk": FaultCase(
        lambda op: stream(FRAMES[op][:3], end=b"400\r\n", then=AfterReply.CLOSE),
        *BROKEN,
        "middle",
        first_frames(3),
    ),
    "body shorter than its content length": FaultCase(
        always(Reply(head(200, "application/json", Content_Length=99) + b"{", AfterReply.CLOSE)),
        *BROKEN,
        "middle",
    ),
    # --- timeouts
    "hang before headers": FaultCase(
        always(Reply(then=AfterReply.HANG)), *TIMED_OUT, "first byte timeout", abandoned=True
    ),
    "hang after headers": FaultCase(
        always(Reply(STREAM_HEAD, AfterReply.HANG)),
        *TIMED_OUT,
        "first byte timeout",
        abandoned=True,
    ),
    "hang after a comment": FaultCase(
        always(stream([COMMENT], end=b"", then=AfterReply.HANG)),
        *TIMED_OUT,
        "first byte timeout",
        abandoned=True,
    ),
    "endless comments": FaultCase(
        always(Reply(STREAM_HEAD, drip=chunked(COMMENT), drip_s=90.0)),
        *TIMED_OUT,
        "first byte timeout",
        abandoned=True,
    ),
    "hang in a JSON body": FaultCase(
        always(Reply(head(200, "application/json", Content_Length=99) + b"{", AfterReply.HANG)),
        *TIMED_OUT,
        "first byte timeout",
        abandoned=True,
    ),
    "hang after the first output": FaultCase(
        lambda op: stream(FRAMES[op][:3], end=b"", then=AfterReply.HANG),
        *TIMED_OUT,
        "silence timeout",
        first_frames(3),
        abandoned=True,
    ),
    "malformed chunk": FaultCase(
        lambda op: stream(FRAMES[op][:3], end=b"", late=b"hello\r\n", then=AfterReply.HANG),
        *INVALID,
        "HTTP",
        first_frames(3),
        abandoned=True,
    ),
    "endless comments after the first output": FaultCase(
        lambda op: Reply(
            STREAM_HEAD + chunked(first_frames(3)(op)), drip=chunked(COMMENT), drip_s=100.0
        ),
        *TIMED_OUT,
        "total timeout",
        lambda op: first_frames(3)(op) + COMMENT * 4,
        abandoned=True,
    ),
    "slow endless output": FaultCase(
        lambda op: Reply(
            STREAM_HEAD + chunked(first_frames(3)(op)), drip=chunked(FRAMES[op][3]), drip_s=110.0
        ),
        *TIMED_OUT,
        "total timeout",
        lambda op: first_frames(3)(op) + FRAMES[op][3] * 4,
        abandoned=True,
    ),
    # --- incomplete responses
    "a well-formed body with only the first events": FaultCase(
        lambda op: stream(FRAMES[op][:3]), *INVALID, "ended without", first_frames(3)
    ),
    "an empty stream": FaultCase(always(stream([])), *INVALID, "empty stream"),
    "only comments": FaultCase(always(stream([COMMENT] * 3)), *INVALID),
    "terminal marker only": FaultCase(always(stream([DONE])), *INVALID),
    "status 204": FaultCase(always(Reply(head(204, "application/json"))), *INVALID),
    "stream longer than its content length": FaultCase(
        lambda op: Reply(
            head(Content_Length=len(first_frames(3)(op))) + first_frames(3)(op), late=b"data: x\n"
        ),
        *INVALID,
        "ended without",
        first_frames(3),
    ),
    "JSON body longer than its content length, in two writes": FaultCase(
        always(
            Reply(head(200, "application/json", Content_Length=9) + b'{"choices', late=b'":[]}')
        ),
        *INVALID,
        "not a JSON object",
    ),
    "JSON body longer than its content length": FaultCase(
        always(Reply(head(200, "application/json", Content_Length=9) + b'{"choices":[]}')),
        *INVALID,
        "not a JSON object",
    ),
    # --- errors inside a response
    "an error body with 200": FaultCase(
        always(whole({"error": "Model is unloaded."})), *FAILED, "inside its response"
    ),
    "an error first": FaultCase(lambda op: stream([BUSY[op]]), *OVERLOADED),
    "an error after comments": FaultCase(lambda op: stream([COMMENT, BUSY[op]]), *OVERLOADED),
    "an error first, then the terminal marker": FaultCase(
        lambda op: stream([BUSY[op], DONE]), *OVERLOADED
    ),
    "an error mid-stream": FaultCase(
        lambda op: stream([*FRAMES[op][:3], BUSY[op]]),
        *OVERLOADED,
        relayed=lambda op: first_frames(3)(op) + BUSY[op],
    ),
    "an error mid-stream, then the terminal marker": FaultCase(
        lambda op: stream([*FRAMES[op][:3], BUSY[op], DONE]),
        *OVERLOADED,
        relayed=lambda op: first_frames(3)(op) + BUSY[op] + DONE,
    ),
    "an error, then a closed connection": FaultCase(
        lambda op: stream([BUSY[op]], end=b"", then=AfterReply.CLOSE), *OVERLOADED
    ),
    # --- malformed responses
    "a line of 5 MB": FaultCase(
        always(stream([LONG_LINE, b"\n\n"])), *INVALID, relayed=lambda _: LONG_LINE + b"\n\n"
    ),
    "5 MB without a line end": FaultCase(
        always(stream([LONG_LINE[6:]])), *INVALID, relayed=lambda _: LONG_LINE[6:]
    ),
    "invalid UTF-8": FaultCase(
        always(stream([b"data: \xff\xfe\n\n"])), *INVALID, relayed=lambda _: b"data: \xff\xfe\n\n"
    ),
    "a JSON body of invalid UTF-8": FaultCase(
        always(whole(b"\xff\xfe")), *INVALID, "not a JSON object"
    ),
    "not HTTP": FaultCase(
        always(Reply(b"SSH-2.0-OpenSSH_9.9\r\n\r\n", AfterReply.CLOSE)), *INVALID, "HTTP"
    ),
    "a header of 1 MB": FaultCase(
        always(Reply(head(X="x" * 1_000_000), AfterReply.CLOSE)), *INVALID, "HTTP"
    ),
    "an HTML page": FaultCase(
        always(Reply(head(200, "text/html", Content_Length=4) + b"<hi>")),
        *INVALID,
        "not a JSON object",
    ),
    "a stream with content type text/plain": FaultCase(
        lambda op: Reply(
            head(200, "text/plain", Content_Length=len(first_frames(99)(op))) + first_frames(99)(op)
        ),
        *INVALID,
        "not a JSON object",
    ),
    "a compressed stream": FaultCase(
        always(Reply(head(Content_Encoding="gzip", Content_Length=2) + b"\x1f\x8b")),
        *INVALID,
        "compressed",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
@parametrize_operations
@in_virtual_time
async def test_fault_fails_the_job_with_its_error_and_the_next_job_succeeds(
    name: str, operation: Operation
) -> None:
    case, sink, after = FAULTS[name], CollectingSink(), CollectingSink()
    replies = [case.reply(operation), success_reply(operation)]
    async with RawServer(replies) as server, backend_at(server.url, TIMEOUTS) as backend:
        with pytest.raises(case.error) as caught:
            await backend.execute(job_for(operation), sink)
        if case.abandoned:
            await server.abandoned.wait()
        await asyncio.sleep(2 * ARRIVES_S)
        await backend.execute(job_for(operation), after)

    assert type(caught.value) is case.error
    assert caught.value.code is case.code
    assert case.message in str(caught.value)
    assert not caught.value.retry_here
    assert bytes(sink.data) == case.relayed(operation)
    assert (sink.status is None) is (case.relayed is no_bytes)
    assert (sink.outcome is None) is (sink.status is None)
    assert after.data == b"".join(FRAMES[operation])
    assert len(server.requests) == 2


def test_every_error_code_in_the_matrix_is_retryable_with_fault_provider() -> None:
    entries = {case.code: entry_for(case.code) for case in FAULTS.values()}

    assert {entry.fault for entry in entries.values()} == {Fault.PROVIDER}
    assert {entry.retryable for entry in entries.values()} == {True}


@in_virtual_time
async def test_refused_connection_is_unreachable() -> None:
    async with RawServer([]) as server:
        url = server.url
    sink = CollectingSink()
    async with backend_at(url) as backend:
        with pytest.raises(Unreachable, match="connection refused") as caught:
            await backend.execute(job_for(Operation.CHAT), sink)

    assert caught.value.code is ErrorCode.BACKEND_UNREACHABLE
    assert sink.status is None
