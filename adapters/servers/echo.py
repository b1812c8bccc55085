"""A built-in backend without a model: streams the last user message back, in both formats.

It makes connection tests and the demo work on a machine without any inference server. Its answer is
a pure function of the request, and its token counts are word counts, which it also tells on their
own (`count_tokens`).
"""

import asyncio
import time
from collections.abc import Callable
from typing import ClassVar, Final

import msgspec

from provider_agent.adapters.base import (
    Backend,
    BackendHealth,
    BackendModel,
    BackendSettings,
    BadRequest,
    Job,
    JobResult,
    JobSink,
    Operation,
    WireFormat,
)
from provider_agent.adapters.responses.relay import ReaderFlowControl

MODEL_ID: Final = "echo"
_OPERATIONS: Final = frozenset({Operation.CHAT, Operation.MESSAGES, Operation.COUNT_TOKENS})
_CREATED: Final = 1_700_000_000  # fixed, so that equal requests get equal bytes
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
    """See the module's text."""

    kind: ClassVar[str] = "echo"
    default_max_concurrent: ClassVar[int] = 64

    def __init__(
        self, settings: BackendSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(settings)
        self._clock = clock

    async def health(self) -> BackendHealth:
        """Always well."""
        return BackendHealth(True, 0.0)

    async def list_models(self) -> list[BackendModel]:
        """The one model there is."""
        return [
            BackendModel(
                model_id=MODEL_ID,
                context_window=None,
                native=True,
                operations=_OPERATIONS,
                upstream_id=MODEL_ID,
            )
        ]

    async def execute(self, job: Job, sink: JobSink) -> JobResult:
        """Stream the last user message back, word by word; see `Backend.execute`."""
        began = self._clock()
        try:
            request = msgspec.json.decode(job.request, type=_Request)
        except (ValueError, RecursionError) as error:
            raise BadRequest("the request needs `messages`, each with a `role`") from error
        counts_only = job.operation == Operation.COUNT_TOKENS
        streamed = request.stream and not counts_only
        answer = _answer(request)
        chunks = _chunks(answer, job.format == WireFormat.ANTHROPIC, streamed)
        if counts_only:
            chunks = [msgspec.json.encode({"input_tokens": answer.prompt_tokens})]
        flow = ReaderFlowControl()
        sink.started(200, "text/event-stream" if streamed else "application/json", flow)
        first_byte_ms = round((self._clock() - began) * 1000)
        total = 0
        for chunk in chunks:
            sink.send_chunk(chunk)
            total += len(chunk)
            await asyncio.sleep(0)  # lets other jobs run, and a cancel arrive
            await flow.wait_until_resumed()
        return JobResult(
            job_id=job.job_id,
            total_bytes=total,
            input_tokens=answer.prompt_tokens,
            output_tokens=0 if counts_only else len(answer.words),
            duration_ms=round((self._clock() - began) * 1000),
            first_byte_ms=first_byte_ms,
        )


class _Answer(msgspec.Struct):
    words: list[str]
    prompt_tokens: int
    cut: bool
    """`max_tokens` ended it."""

    @property
    def pieces(self) -> list[str]:
        return [word if index == 0 else f" {word}" for index, word in enumerate(self.words)]


def _answer(request: _Request) -> _Answer:
    spoken = [message.text for message in request.messages if message.role == "user"]
    words = (spoken[-1] if spoken else "").split() or ["(nothing", "to", "echo)"]
    limit = request.max_tokens or len(words)
    prompt_tokens = sum(len(message.text.split()) for message in request.messages)
    return _Answer(words[:limit], prompt_tokens, len(words) > limit)


def _chunks(answer: _Answer, anthropic: bool, streamed: bool) -> list[bytes]:
    if streamed:
        return _anthropic_events(answer) if anthropic else _openai_events(answer)
    return [msgspec.json.encode(_anthropic_body(answer) if anthropic else _openai_body(answer))]


# --- OpenAI ---------------------------------------------------------------------------------------


def _openai_usage(answer: _Answer) -> dict[str, int]:
    spoken = len(answer.words)
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": spoken,
        "total_tokens": answer.prompt_tokens + spoken,
    }


def _openai_events(answer: _Answer) -> list[bytes]:
    shared = {"id": _ID, "object": "chat.completion.chunk", "created": _CREATED, "model": MODEL_ID}

    def chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return _sse({**shared, "choices": [choice]})

    return [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": piece}) for piece in answer.pieces),
        chunk({}, "length" if answer.cut else "stop"),
        _sse({**shared, "choices": [], "usage": _openai_usage(answer)}),
        b"data: [DONE]\n\n",
    ]


def _openai_body(answer: _Answer) -> object:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": " ".join(answer.words)},
        "finish_reason": "length" if answer.cut else "stop",
    }
    shared = {"id": _ID, "object": "chat.completion", "created": _CREATED, "model": MODEL_ID}
    return {**shared, "choices": [choice], "usage": _openai_usage(answer)}


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


def _anthropic_events(answer: _Answer) -> list[bytes]:
    def event(name: str, **fields: object) -> bytes:
        return f"event: {name}\n".encode() + _sse({"type": name, **fields})

    before = {"input_tokens": answer.prompt_tokens, "output_tokens": 0}
    stop = {"stop_reason": "max_tokens" if answer.cut else "end_turn", "stop_sequence": None}
    return [
        event("message_start", message=_anthropic_message([], None, before)),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *(
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
            for piece in answer.pieces
        ),
        event("content_block_stop", index=0),
        event("message_delta", delta=stop, usage={"output_tokens": len(answer.words)}),
        event("message_stop"),
    ]


def _anthropic_body(answer: _Answer) -> object:
    usage = {"input_tokens": answer.prompt_tokens, "output_tokens": len(answer.words)}
    content: list[object] = [{"type": "text", "text": " ".join(answer.words)}]
    return _anthropic_message(content, "max_tokens" if answer.cut else "end_turn", usage)


def _sse(event: object) -> bytes:
    return b"data: " + msgspec.json.encode(event) + b"\n\n"
