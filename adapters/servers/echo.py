"""The adapter `echo`: a built-in backend that repeats the last user message, in both formats.

It is for connection tests and the demo, which need no inference server. Its response depends only
on the request. Its token counts, also those of `count_tokens`, are word counts.
"""

import asyncio
from functools import partial
from typing import ClassVar, Final

import msgspec

from provider_agent.adapters.base import (
    Backend,
    BackendHealth,
    BackendModel,
    Job,
    JobSink,
    Operation,
    ResponseOutcome,
    Usage,
    WireFormat,
)
from provider_agent.adapters.errors import RefusedRequest
from provider_agent.adapters.http.reader_flow_control import ReaderFlowControl
from provider_agent.adapters.requests import offload
from provider_agent.adapters.requests.structure import check_structure
from provider_agent.adapters.servers.model_selection import select_models

MODEL_ID: Final = "echo"
_OPERATIONS: Final = frozenset({Operation.CHAT, Operation.MESSAGES, Operation.COUNT_TOKENS})
_CREATED: Final = 1_700_000_000  # fixed, so that equal requests produce equal bytes
_ID: Final = "echo-0"


class _Part(msgspec.Struct):
    text: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class _Request(msgspec.Struct):
    messages: list[_Message]
    stream: bool = False
    max_tokens: int | None = None


class EchoBackend(Backend):
    """The built-in backend that repeats the last user message."""

    kind: ClassVar[str] = "echo"
    default_max_concurrent: ClassVar[int] = 64

    async def health(self) -> BackendHealth:
        """Return a successful health check."""
        return BackendHealth(True, 0.0)

    async def list_models(self) -> list[BackendModel]:
        """Return the only model, with the operator's aliases."""
        model = BackendModel(
            model_id=MODEL_ID,
            context_window=None,
            native=True,
            operations=_OPERATIONS,
            upstream_id=MODEL_ID,
            input_kinds=frozenset({"text"}),
            tools=False,
            json_schema=False,
            reasoning=False,
        )
        return select_models([model], self.settings)

    async def execute(self, job: Job, sink: JobSink) -> None:
        """Return the last user message, word by word if streamed; see `Backend.execute`."""
        request = await offload.call(partial(_decode, job.request), job.request)
        counts_only = job.operation == Operation.COUNT_TOKENS
        streamed = request.stream and not counts_only
        reply = _reply(request)
        chunks = _chunks(reply, job.format == WireFormat.ANTHROPIC, streamed)
        if counts_only:
            chunks = [msgspec.json.encode({"input_tokens": reply.prompt_tokens})]
        flow = ReaderFlowControl()
        sink.started(200, "text/event-stream" if streamed else "application/json", flow, {})
        usage = Usage(reply.prompt_tokens)  # if the job is stopped before the last byte
        try:
            for chunk in chunks:
                sink.send_chunk(chunk)
                await asyncio.sleep(0)  # lets other jobs run, and a cancellation take effect
                await flow.wait_until_resumed()
            usage = Usage(reply.prompt_tokens, 0 if counts_only else len(reply.words))
        finally:
            sink.response_ended(ResponseOutcome(usage, between_events=streamed))


def _decode(request: bytes) -> _Request:
    check_structure(request)
    try:
        return msgspec.json.decode(request, type=_Request)
    except (ValueError, RecursionError) as error:
        raise RefusedRequest(
            "the request is not valid; it needs `messages`, each with a `role`"
        ) from error


class _Reply(msgspec.Struct):
    words: list[str]
    prompt_tokens: int
    truncated: bool
    """Whether `max_tokens` shortened the reply."""

    @property
    def pieces(self) -> list[str]:
        return [word if index == 0 else f" {word}" for index, word in enumerate(self.words)]


def _reply(request: _Request) -> _Reply:
    user_texts = [message.text for message in request.messages if message.role == "user"]
    words = (user_texts[-1] if user_texts else "").split() or ["(nothing", "to", "echo)"]
    limit = request.max_tokens if request.max_tokens and request.max_tokens > 0 else len(words)
    prompt_tokens = sum(len(message.text.split()) for message in request.messages)
    return _Reply(words[:limit], prompt_tokens, len(words) > limit)


def _chunks(reply: _Reply, anthropic: bool, streamed: bool) -> list[bytes]:
    if streamed:
        return _anthropic_events(reply) if anthropic else _openai_events(reply)
    return [msgspec.json.encode(_anthropic_body(reply) if anthropic else _openai_body(reply))]


# --- OpenAI ---------------------------------------------------------------------------------------


def _openai_usage(reply: _Reply) -> dict[str, int]:
    output_tokens = len(reply.words)
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": reply.prompt_tokens + output_tokens,
    }


def _openai_events(reply: _Reply) -> list[bytes]:
    shared = {"id": _ID, "object": "chat.completion.chunk", "created": _CREATED, "model": MODEL_ID}

    def chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return _sse({**shared, "choices": [choice]})

    return [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": piece}) for piece in reply.pieces),
        chunk({}, "length" if reply.truncated else "stop"),
        _sse({**shared, "choices": [], "usage": _openai_usage(reply)}),
        b"data: [DONE]\n\n",
    ]


def _openai_body(reply: _Reply) -> object:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": " ".join(reply.words)},
        "finish_reason": "length" if reply.truncated else "stop",
    }
    shared = {"id": _ID, "object": "chat.completion", "created": _CREATED, "model": MODEL_ID}
    return {**shared, "choices": [choice], "usage": _openai_usage(reply)}


# --- Anthropic ------------------------------------------------------------------------------------


def _anthropic_message(content: list[object], stop_reason: str | None, usage: object) -> object:
    return {
        "id": _ID,
        "type": "message",
        "role": "assistant",
        "model": MODEL_ID,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage,
    }


def _anthropic_events(reply: _Reply) -> list[bytes]:
    def event(name: str, **fields: object) -> bytes:
        return f"event: {name}\n".encode() + _sse({"type": name, **fields})

    before = {"input_tokens": reply.prompt_tokens, "output_tokens": 0}
    stop = {"stop_reason": "max_tokens" if reply.truncated else "end_turn", "stop_sequence": None}
    return [
        event("message_start", message=_anthropic_message([], None, before)),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *(
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
            for piece in reply.pieces
        ),
        event("content_block_stop", index=0),
        event("message_delta", delta=stop, usage={"output_tokens": len(reply.words)}),
        event("message_stop"),
    ]


def _anthropic_body(reply: _Reply) -> object:
    usage = {"input_tokens": reply.prompt_tokens, "output_tokens": len(reply.words)}
    content: list[object] = [{"type": "text", "text": " ".join(reply.words)}]
    return _anthropic_message(content, "max_tokens" if reply.truncated else "end_turn", usage)


def _sse(event: object) -> bytes:
    return b"data: " + msgspec.json.encode(event) + b"\n\n"
