"""Unusual or invalid server behavior that leaves the response usable: the job succeeds."""

import asyncio
from collections.abc import Callable
from typing import Final

import pytest

from provider_agent.adapters.base import Operation, Usage
from tests.kit.fakes.frames import INPUT_TOKENS, OUTPUT_TOKENS
from tests.kit.raw_jobs import (
    COMMENT,
    FRAMES,
    LONG_LINE,
    backend_at,
    first_frames,
    job_for,
    parametrize_operations,
    success_reply,
)
from tests.kit.raw_server import (
    ARRIVES_S,
    LAST_CHUNK,
    AfterReply,
    RawServer,
    Reply,
    head,
    stream,
    whole,
)
from tests.kit.sink import CollectingSink
from tests.kit.virtual_time import in_virtual_time


def impossible_usage(operation: Operation) -> list[bytes]:
    """A successful stream with impossible token counts."""
    data = b"".join(FRAMES[operation])
    for count, instead in ((INPUT_TOKENS, -3), (OUTPUT_TOKENS, 10**30)):
        data = data.replace(b'tokens":%d' % count, b'tokens":%d' % instead)
    return [data]


UNUSUAL: Final[dict[str, Callable[[Operation], Reply]]] = {
    "byte by byte": lambda op: stream(bytes([byte]) for byte in b"".join(FRAMES[op])),
    "comments between events": lambda op: stream(
        p for frame in FRAMES[op] for p in (COMMENT, frame)
    ),
    "CRLF line ends": lambda op: stream(f.replace(b"\n", b"\r\n") for f in FRAMES[op]),
    "a line of 5 MB": lambda op: stream([*FRAMES[op][:3], LONG_LINE, b"\n\n", *FRAMES[op][3:]]),
    "invalid UTF-8": lambda op: stream([*FRAMES[op][:3], b"data: \xff\n\n", *FRAMES[op][3:]]),
    "garbage after the terminal marker": lambda op: stream([*FRAMES[op], b"\x00\xff garbage"]),
    "garbage after the response": lambda op: stream(FRAMES[op], late=b"\x00garbage"),
    "garbage in the same write as the last chunk": lambda op: stream(
        FRAMES[op], end=b"", late=LAST_CHUNK + b"\x00garbage"
    ),
    "an unrequested second response": lambda op: stream(
        FRAMES[op], end=LAST_CHUNK + whole({"error": "of another"}).data
    ),
    "a body that ends with the connection": lambda op: Reply(
        head() + first_frames(99)(op), AfterReply.CLOSE
    ),
    # In earlier versions, these were failures, the first one after the silence timeout.
    "a connection that stays open after the final event": lambda op: stream(
        FRAMES[op], end=b"", then=AfterReply.HANG
    ),
    "a reset after the final event": lambda op: stream(FRAMES[op], end=b"", then=AfterReply.RESET),
    "a close after the final event, without a last chunk": lambda op: stream(
        FRAMES[op], end=b"", then=AfterReply.CLOSE
    ),
    "impossible usage": lambda op: stream(impossible_usage(op)),
}


@pytest.mark.parametrize("name", UNUSUAL)
@parametrize_operations
@in_virtual_time
async def test_unusual_response_is_a_success(name: str, operation: Operation) -> None:
    replies = [UNUSUAL[name](operation), success_reply(operation)]
    sinks = [CollectingSink() for _ in replies]
    async with RawServer(replies) as server, backend_at(server.url) as backend:
        for sink in sinks:
            await backend.execute(job_for(operation), sink)
            await asyncio.sleep(2 * ARRIVES_S)

    usage = Usage(INPUT_TOKENS, OUTPUT_TOKENS)
    reported = [sink.usage for sink in sinks]
    assert reported == [Usage() if name == "impossible usage" else usage, usage]
