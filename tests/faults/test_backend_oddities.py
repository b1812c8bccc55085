"""What looks like a fault of a server and is none."""

import asyncio
from collections.abc import Callable
from typing import Final

import pytest

from provider_agent.adapters.base import BackendTimeout, JobResult, Operation, TimeoutSettings
from tests.kit.fakes.frames import INPUT_TOKENS, OUTPUT_TOKENS
from tests.kit.raw_jobs import (
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
    LAST_CHUNK,
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


def odd_usage(operation: Operation) -> list[bytes]:
    """A good stream with figures that nobody can have counted."""
    odd = b"".join(FRAMES[operation])
    for count, instead in ((INPUT_TOKENS, -3), (OUTPUT_TOKENS, 10**30)):
        odd = odd.replace(b'tokens":%d' % count, b'tokens":%d' % instead)
    return [odd]


GOOD: Final[dict[str, Callable[[Operation], Reply]]] = {
    "plain": success_reply,
    "byte by byte": lambda op: stream(bytes([one]) for one in b"".join(FRAMES[op])),
    "comments between": lambda op: stream(p for frame in FRAMES[op] for p in (COMMENT, frame)),
    "carriage returns": lambda op: stream(f.replace(b"\n", b"\r\n") for f in FRAMES[op]),
    "a line of 5 MB": lambda op: stream([*FRAMES[op][:2], LONG_LINE, b"\n\n", *FRAMES[op][2:]]),
    "invalid UTF-8": lambda op: stream([*FRAMES[op][:2], b"data: \xff\n\n", *FRAMES[op][2:]]),
    "garbage after the end": lambda op: stream([*FRAMES[op], b"\x00\xff garbage"]),
    "garbage after the response": lambda op: stream(FRAMES[op], late=b"\x00garbage"),
    "garbage right after the response": lambda op: stream(
        FRAMES[op], end=b"", late=LAST_CHUNK + b"\x00garbage"
    ),
    "a response that nobody asked for": lambda op: stream(
        FRAMES[op], end=LAST_CHUNK + whole({"error": "of another"}).data
    ),
    "no length, then the end": lambda op: Reply(head() + first_frames(99)(op), AfterReply.CLOSE),
    "odd figures": lambda op: stream(odd_usage(op)),
}


@pytest.mark.parametrize("name", GOOD)
@parametrize_operations
@in_virtual_time
async def test_what_looks_odd_is_a_success(name: str, operation: Operation) -> None:
    replies = [GOOD[name](operation), success_reply(operation)]
    results: list[JobResult] = []
    async with RawServer(replies) as server, backend_at(server.url) as backend:
        for _ in replies:
            results += [await backend.execute(job_for(operation), CollectingSink())]
            await asyncio.sleep(2 * ARRIVES_S)

    usage = (INPUT_TOKENS, OUTPUT_TOKENS)
    told = [(result.input_tokens, result.output_tokens) for result in results]
    assert told == [(None, None) if name == "odd figures" else usage, usage]


@pytest.mark.parametrize("drip_s", [1.0, 119.0])
@parametrize_operations
@in_virtual_time
async def test_a_slow_server_is_not_a_silent_one(operation: Operation, drip_s: float) -> None:
    """Comments count as a sign of life once output has begun."""
    reply = Reply(
        STREAM_HEAD + chunked(first_frames(1)(operation)), drip=chunked(COMMENT), drip_s=drip_s
    )
    sink, timeouts = CollectingSink(), TimeoutSettings(total_s=9.5 * drip_s)
    async with RawServer([reply]) as server, backend_at(server.url, timeouts) as backend:
        with pytest.raises(BackendTimeout, match="total timeout"):
            await backend.execute(job_for(operation), sink)

    assert bytes(sink.data).count(COMMENT) == 9
