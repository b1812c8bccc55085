"""The fault matrix: whatever a server does on the wire, what becomes of the job."""

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

CLOCKS: Final = TimeoutSettings(first_byte_s=300.0, silence_s=120.0, total_s=480.0)

Bytes = Callable[[Operation], bytes]
BuildReply = Callable[[Operation], Reply]


def nothing(_: Operation) -> bytes:
    """No byte: another backend may be tried."""
    return b""


def always(value: Reply) -> BuildReply:
    return lambda _: value


@dataclass(frozen=True)
class Row:
    """What a server does, and what becomes of it.

    Attributes:
        reply: to the request.
        error: that the job fails with.
        code: of that error.
        words: in its text.
        relayed: what has reached the sink.
        abandoned: whether the server must see the agent close the connection.
        times: how often it happens: a connection that breaks without an answer is replaced once.
    """

    reply: BuildReply
    error: type[BackendError]
    code: ErrorCode
    words: str = ""
    relayed: Bytes = nothing
    abandoned: bool = False
    times: int = 1


CUT: Final = (Transport, ErrorCode.BACKEND_UNREACHABLE)
LATE: Final = (BackendTimeout, ErrorCode.BACKEND_TIMEOUT)
INVALID: Final = (InvalidResponse, ErrorCode.INVALID_RESPONSE)
OVERLOADED: Final = (ErrorInStream, ErrorCode.BACKEND_OVERLOADED)
FAILED: Final = (ErrorInStream, ErrorCode.BACKEND_ERROR)

ROWS: Final = {
    # --- the connection
    "reset before headers": Row(always(Reply(then=AfterReply.RESET)), *CUT, "without", times=2),
    "closed before headers": Row(always(Reply(then=AfterReply.CLOSE)), *CUT, "without", times=2),
    "closed in the headers": Row(
        always(Reply(STREAM_HEAD[:30], AfterReply.CLOSE)), *CUT, "without", times=2
    ),
    "closed after headers": Row(always(Reply(STREAM_HEAD, AfterReply.CLOSE)), *CUT, "middle"),
    "reset mid-chunk": Row(
        lambda op: stream(FRAMES[op][:2], end=b"400\r\n", then=AfterReply.RESET),
        *CUT,
        relayed=first_frames(2),
    ),
    "closed mid-chunk": Row(
        lambda op: stream(FRAMES[op][:2], end=b"400\r\n", then=AfterReply.CLOSE),
        *CUT,
        "middle",
        first_frames(2),
    ),
    "fewer bytes than said": Row(
        always(Reply(head(200, "application/json", Content_Length=99) + b"{", AfterReply.CLOSE)),
        *CUT,
        "middle",
    ),
    # --- time
    "hang before headers": Row(
        always(Reply(then=AfterReply.HANG)), *LATE, "first byte timeout", abandoned=True
    ),
    "hang after headers": Row(
        always(Reply(STREAM_HEAD, AfterReply.HANG)), *LATE, "first byte timeout", abandoned=True
    ),
    "hang after a comment": Row(
        always(stream([COMMENT], end=b"", then=AfterReply.HANG)),
        *LATE,
        "first byte timeout",
        abandoned=True,
    ),
    "comments without an end": Row(
        always(Reply(STREAM_HEAD, drip=chunked(COMMENT), drip_s=90.0)),
        *LATE,
        "first byte timeout",
        abandoned=True,
    ),
    "hang in an answer of one piece": Row(
        always(Reply(head(200, "application/json", Content_Length=99) + b"{", AfterReply.HANG)),
        *LATE,
        "first byte timeout",
        abandoned=True,
    ),
    "hang after the first chunk": Row(
        lambda op: stream(FRAMES[op][:1], end=b"", then=AfterReply.HANG),
        *LATE,
        "silence timeout",
        first_frames(1),
        abandoned=True,
    ),
    # aiohttp closes the connection then, and tells nobody who waits for the next bytes.
    "a chunk that is none": Row(
        lambda op: stream(FRAMES[op][:2], end=b"", late=b"hello\r\n", then=AfterReply.HANG),
        *LATE,
        "silence timeout",
        first_frames(2),
        abandoned=True,
    ),
    "comments without an end after the first chunk": Row(
        lambda op: Reply(
            STREAM_HEAD + chunked(first_frames(1)(op)), drip=chunked(COMMENT), drip_s=100.0
        ),
        *LATE,
        "total timeout",
        lambda op: first_frames(1)(op) + COMMENT * 4,
        abandoned=True,
    ),
    "a slow drip": Row(
        lambda op: Reply(
            STREAM_HEAD + chunked(first_frames(1)(op)), drip=chunked(FRAMES[op][1]), drip_s=110.0
        ),
        *LATE,
        "total timeout",
        lambda op: first_frames(1)(op) + FRAMES[op][1] * 4,
        abandoned=True,
    ),
    # --- the end
    "an early clean end": Row(
        lambda op: stream(FRAMES[op][:3]), *INVALID, "ended without", first_frames(3)
    ),
    "no terminal marker": Row(
        lambda op: stream(FRAMES[op][:-1]), *INVALID, "ended without", first_frames(-1)
    ),
    "an empty stream": Row(always(stream([])), *INVALID, "empty stream"),
    "only comments": Row(always(stream([COMMENT] * 3)), *INVALID),
    "only the marker": Row(always(stream([DONE])), *INVALID),
    "no content": Row(always(Reply(head(204, "application/json"))), *INVALID),
    "a stream shorter than it is": Row(
        lambda op: Reply(
            head(Content_Length=len(first_frames(2)(op))) + first_frames(2)(op), late=b"data: x\n"
        ),
        *INVALID,
        "ended without",
        first_frames(2),
    ),
    "an answer shorter than it is": Row(
        always(
            Reply(head(200, "application/json", Content_Length=9) + b'{"choices', late=b'":[]}')
        ),
        *INVALID,
        "not a JSON object",
    ),
    "an answer that is longer than said": Row(
        always(Reply(head(200, "application/json", Content_Length=9) + b'{"choices":[]}')),
        *INVALID,
        "HTTP",
    ),
    # --- errors inside
    "an error body with 200": Row(
        always(whole({"error": "Model is unloaded."})), *FAILED, "inside its answer"
    ),
    "an error first": Row(lambda op: stream([BUSY[op]]), *OVERLOADED),
    "an error after comments": Row(lambda op: stream([COMMENT, BUSY[op]]), *OVERLOADED),
    "an error first_frames, then the marker": Row(lambda op: stream([BUSY[op], DONE]), *OVERLOADED),
    "an error mid-stream": Row(
        lambda op: stream([*FRAMES[op][:3], BUSY[op]]),
        *OVERLOADED,
        relayed=lambda op: first_frames(3)(op) + BUSY[op],
    ),
    "an error mid-stream, then the marker": Row(
        lambda op: stream([*FRAMES[op][:3], BUSY[op], DONE]),
        *OVERLOADED,
        relayed=lambda op: first_frames(3)(op) + BUSY[op] + DONE,
    ),
    "an error, then the connection goes": Row(
        lambda op: stream([BUSY[op]], end=b"", then=AfterReply.CLOSE), *OVERLOADED
    ),
    # --- nonsense
    "a line of 5 MB": Row(
        always(stream([LONG_LINE, b"\n\n"])), *INVALID, relayed=lambda _: LONG_LINE + b"\n\n"
    ),
    "5 MB without a line": Row(
        always(stream([LONG_LINE[6:]])), *INVALID, relayed=lambda _: LONG_LINE[6:]
    ),
    "invalid UTF-8": Row(
        always(stream([b"data: \xff\xfe\n\n"])), *INVALID, relayed=lambda _: b"data: \xff\xfe\n\n"
    ),
    "an answer of invalid UTF-8": Row(always(whole(b"\xff\xfe")), *INVALID, "not a JSON object"),
    "no HTTP": Row(
        always(Reply(b"SSH-2.0-OpenSSH_9.9\r\n\r\n", AfterReply.CLOSE)), *INVALID, "HTTP"
    ),
    "a header of 1 MB": Row(
        always(Reply(head(X="x" * 1_000_000), AfterReply.CLOSE)), *INVALID, "HTTP"
    ),
    "a page": Row(
        always(Reply(head(200, "text/html", Content_Length=4) + b"<hi>")),
        *INVALID,
        "not a JSON object",
    ),
    "a stream of the wrong type": Row(
        lambda op: Reply(
            head(200, "text/plain", Content_Length=len(first_frames(99)(op))) + first_frames(99)(op)
        ),
        *INVALID,
        "not a JSON object",
    ),
    "a compressed stream": Row(
        always(Reply(head(Content_Encoding="gzip", Content_Length=2) + b"\x1f\x8b")),
        *INVALID,
        "compressed",
    ),
}


@pytest.mark.parametrize("name", ROWS)
@parametrize_operations
@in_virtual_time
async def test_a_fault_is_told_by_its_own_error_and_the_backend_survives(
    name: str, operation: Operation
) -> None:
    row, sink = ROWS[name], CollectingSink()
    replies = [*[row.reply(operation)] * row.times, success_reply(operation)]
    async with RawServer(replies) as server, backend_at(server.url, CLOCKS) as backend:
        with pytest.raises(row.error) as caught:
            await backend.execute(job_for(operation), sink)
        if row.abandoned:
            await server.abandoned.wait()
        await asyncio.sleep(2 * ARRIVES_S)
        after = await backend.execute(job_for(operation), CollectingSink())

    assert type(caught.value) is row.error
    assert caught.value.code is row.code
    assert row.words in str(caught.value)
    assert not caught.value.retry_here
    assert bytes(sink.data) == row.relayed(operation)
    assert (sink.status is None) is (row.relayed is nothing)
    assert after.total_bytes == len(b"".join(FRAMES[operation]))
    assert len(server.requests) == row.times + 1


def test_all_of_these_are_the_providers_fault_and_may_be_tried_elsewhere() -> None:
    entries = {row.code: entry_for(row.code) for row in ROWS.values()}

    assert {entry.fault for entry in entries.values()} == {Fault.PROVIDER}
    assert {entry.retryable for entry in entries.values()} == {True}


@parametrize_operations
@in_virtual_time
async def test_nobody_listens(operation: Operation) -> None:
    async with RawServer([]) as server:
        url = server.url
    sink = CollectingSink()
    async with backend_at(url) as backend:
        with pytest.raises(Unreachable, match="connection refused") as caught:
            await backend.execute(job_for(operation), sink)

    assert caught.value.code is ErrorCode.BACKEND_UNREACHABLE
    assert sink.status is None
