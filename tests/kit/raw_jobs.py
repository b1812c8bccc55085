"""Jobs for a `RawServer`: replies for each operation, and a backend to run the jobs on."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import pytest

from provider_agent.adapters.base import BackendSettings, Job, Operation, TimeoutSettings
from provider_agent.adapters.servers.openai_compatible import OpenAICompatibleBackend
from tests.kit.fakes.frames import (
    chat_frames,
    completion_frames,
    message_frames,
    response_frames,
    sse,
)
from tests.kit.jobs import new_job
from tests.kit.raw_server import Reply, head, stream

STREAM_HEAD: Final = head(Transfer_Encoding="chunked")
COMMENT: Final = b": OPENROUTER PROCESSING\n\n"
LONG_LINE: Final = b"data: " + b"x" * 5_000_000

FRAMES: Final = {
    Operation.CHAT: chat_frames("m", usage=True),
    Operation.COMPLETIONS: completion_frames("m", usage=True),
    Operation.MESSAGES: message_frames("m"),
    Operation.RESPONSES: response_frames("m"),
}
BUSY: Final = {
    Operation.CHAT: sse({"error": {"message": "busy", "code": 503}}),
    Operation.COMPLETIONS: sse({"error": {"message": "busy", "code": 503}}),
    Operation.MESSAGES: sse(
        {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, "error"
    ),
    Operation.RESPONSES: sse(
        {"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded"}}},
        "response.failed",
    ),
}
"""For each operation, the error event that an overloaded server sends."""

parametrize_formats = pytest.mark.parametrize(
    "operation", [Operation.CHAT, Operation.MESSAGES], ids=["openai", "anthropic"]
)
parametrize_operations = pytest.mark.parametrize(
    "operation", FRAMES, ids=[op.value for op in FRAMES]
)

DEFAULT_TIMEOUTS: Final = TimeoutSettings()


@asynccontextmanager
async def backend_at(
    url: str, timeouts: TimeoutSettings = DEFAULT_TIMEOUTS, *, key: str | None = None
) -> AsyncIterator[OpenAICompatibleBackend]:
    settings = BackendSettings(kind="openai_compatible", url=url, timeouts=timeouts, api_key=key)
    backend = OpenAICompatibleBackend(settings)
    try:
        yield backend
    finally:
        await backend.close()


def job_for(operation: Operation) -> Job:
    return new_job("m", wire_format=operation.wire_format, operation=operation.value)


def success_reply(operation: Operation) -> Reply:
    return stream(FRAMES[operation])


def first_frames(count: int) -> Callable[[Operation], bytes]:
    """Return a function from an operation to the first `count` frames of its successful stream."""
    return lambda operation: b"".join(FRAMES[operation][:count])
