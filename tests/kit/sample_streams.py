"""Sample streams of each format, with the usage or error code that validation must return."""

from provider_agent.adapters.base import Usage
from provider_agent.adapters.responses.stream_validator import TAIL_BYTES
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation
from tests.kit.fakes import FakeLmStudio, FakeOpenRouter, FakeVenice, FakeVllm
from tests.kit.fakes.frames import (
    DONE,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    chat_chunk,
    chat_frames,
    message_frames,
    openai_usage,
    sse,
    text_delta,
    usage_chunk,
)

OPENAI, ANTHROPIC, RESPONSES = Operation.CHAT, Operation.MESSAGES, Operation.RESPONSES
KNOWN_USAGE = Usage(INPUT_TOKENS, OUTPUT_TOKENS)
UNKNOWN_USAGE = Usage(None, None)

# An error event whose data is the error object itself.
BARE_ERROR = b'event: error\ndata: {"code":500,"message":"slot failed","type":"server_error"}\n\n'


def responses_frames(last_type: str, text: str = "words", **more: object) -> list[bytes]:
    """Build a Responses stream; its last event repeats the whole response, with `more` at last."""
    output = [{"type": "message", "content": [{"type": "output_text", "text": text}]}]
    usage = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
    status = last_type.partition(".")[2]
    response = {"status": status, "output": output, "usage": usage, **more}
    return [
        sse({"type": "response.created", "response": {"usage": None}}, "response.created"),
        sse({"type": "response.output_text.delta", "delta": text}, "response.output_text.delta"),
        sse({"type": last_type, "response": response}, last_type),
    ]


def two_choices(first: str | None, second: str | None) -> bytes:
    """One chunk with a delta of each of two choices."""
    choices = [
        {"index": index, "delta": {"content": "a"}, "finish_reason": reason}
        for index, reason in enumerate((first, second))
    ]
    return sse({"choices": choices})


GOOD_OPENAI = {
    "with usage": (chat_frames("m", usage=True), KNOWN_USAGE),
    "without usage": (chat_frames("m", usage=False), UNKNOWN_USAGE),
    "comments": ([b": KEEP-ALIVE\n\n", *chat_frames("m", usage=True), b": bye\n\n"], KNOWN_USAGE),
    "usage with the finish reason": (
        [chat_chunk("m", {"content": "a"}, "length", usage={"prompt_tokens": 3}), DONE],
        Usage(3, None),
    ),
    "usage null on each chunk": (
        [
            chat_chunk("m", {"content": "a"}, usage=None),
            chat_chunk("m", {}, "stop", usage=None),
            usage_chunk("m"),
            DONE,
        ],
        KNOWN_USAGE,
    ),
    "continuous usage": (
        [
            chat_chunk("m", {"content": "a"}, usage={"prompt_tokens": 9, "completion_tokens": 1}),
            chat_chunk("m", {}, "stop", usage={"prompt_tokens": 9, "completion_tokens": 2}),
            DONE,
        ],
        Usage(9, 2),
    ),
    "CRLF line ends": (
        [frame.replace(b"\n", b"\r\n") for frame in chat_frames("m", usage=True)],
        KNOWN_USAGE,
    ),
    "CR line ends": (
        [frame.replace(b"\n", b"\r") for frame in chat_frames("m", usage=True)],
        KNOWN_USAGE,
    ),
    "JSON over several data lines": (
        [frame.replace(b",", b",\ndata: ") for frame in chat_frames("m", usage=True)],
        KNOWN_USAGE,
    ),
    "a byte order mark": ([b"\xef\xbb\xbf", *chat_frames("m", usage=True)], KNOWN_USAGE),
    "no terminal marker": (chat_frames("m", usage=True)[:-1], KNOWN_USAGE),
    "no terminal marker in a long stream": (
        [*[chat_chunk("m", {"content": "word "})] * 1000, chat_chunk("m", {}, "stop")],
        UNKNOWN_USAGE,
    ),
    "ends within the terminal marker": (
        [*chat_frames("m", usage=False)[:-1], b"data: [DO"],
        UNKNOWN_USAGE,
    ),
    "no finish reason": ([*chat_frames("m", usage=False)[:3], DONE], UNKNOWN_USAGE),
    "no finish reason in a long stream": (
        [*[chat_chunk("m", {"content": "word "})] * 1000, DONE],
        UNKNOWN_USAGE,
    ),
    "two choices that end one after the other": (
        [two_choices(None, None), two_choices("stop", None), two_choices(None, "length")],
        UNKNOWN_USAGE,
    ),
    "zeros in every chunk but the last": (
        [
            chat_chunk("m", {"content": "a"}, usage={"prompt_tokens": 0, "completion_tokens": 0}),
            chat_chunk("m", {}, "stop", usage=openai_usage()),
            DONE,
        ],
        KNOWN_USAGE,
    ),
    "counts with a decimal point": (
        [chat_chunk("m", {}, "stop", usage={"prompt_tokens": 3.0, "completion_tokens": 5.0}), DONE],
        Usage(3, 5),
    ),
    "no space after the colon": (
        [frame.replace(b"data: ", b"data:") for frame in chat_frames("m", usage=True)],
        KNOWN_USAGE,
    ),
    "the word error in the text": (
        [chat_chunk("m", {"content": '{"error": "no"}'}), chat_chunk("m", {}, "stop"), DONE],
        UNKNOWN_USAGE,
    ),
    "error null": ([chat_chunk("m", {}, "stop", error=None), DONE], UNKNOWN_USAGE),
    "a last delta bigger than the tail": (
        [chat_chunk("m", {"content": "x" * 2 * TAIL_BYTES}, "stop"), DONE],
        UNKNOWN_USAGE,
    ),
    "a last delta bigger than the tail, then usage": (
        [chat_chunk("m", {"content": "x" * 2 * TAIL_BYTES}, "stop"), usage_chunk("m"), DONE],
        KNOWN_USAGE,
    ),
    "usage in a last delta without a finish reason": (
        [
            chat_chunk("m", {"content": "a"}, "stop"),
            chat_chunk("m", {"content": ""}, usage=openai_usage()),
            DONE,
        ],
        KNOWN_USAGE,
    ),
    "long": (
        [*[chat_chunk("m", {"content": "word "})] * 1000, *chat_frames("m", usage=True)],
        KNOWN_USAGE,
    ),
    "invalid UTF-8": (
        [b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n', *chat_frames("m", usage=True)],
        KNOWN_USAGE,
    ),
    "garbage between events": (
        [
            *(b"\x00\xff\n", b"data: ?\n\n", *chat_frames("m", usage=True)[:5]),
            *(b"id: 7\n\n", *chat_frames("m", usage=True)[5:], b"\x00garbage after the end"),
        ],
        KNOWN_USAGE,
    ),
    "impossible usage": (
        [
            chat_chunk("m", {}, "stop", usage={"prompt_tokens": -3, "completion_tokens": 10**30}),
            DONE,
        ],
        UNKNOWN_USAGE,
    ),
    "completions": (
        [
            sse({"object": "text_completion", "choices": [{"text": "a", "finish_reason": None}]}),
            sse({"choices": [{"text": "", "finish_reason": "length"}], "usage": openai_usage()}),
            DONE,
        ],
        KNOWN_USAGE,
    ),
}
GOOD_ANTHROPIC = {
    "typical": (message_frames("m"), KNOWN_USAGE),
    "estimate, then final usage": (
        message_frames(
            "m",
            start_usage={"input_tokens": 5, "output_tokens": 0},
            end_usage={"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS},
        ),
        KNOWN_USAGE,
    ),
    "cached input tokens are counted": (
        message_frames(
            "m",
            start_usage={
                "input_tokens": 1,
                "cache_read_input_tokens": INPUT_TOKENS - 3,
                "cache_creation_input_tokens": 2,
                "output_tokens": 0,
            },
        ),
        Usage(INPUT_TOKENS, OUTPUT_TOKENS, INPUT_TOKENS - 3, 2),
    ),
    "DONE after the end": ([*message_frames("m"), DONE], KNOWN_USAGE),
    "no message_stop": (message_frames("m")[:-1], KNOWN_USAGE),
    "no stop reason": (
        [*message_frames("m")[:-2], message_frames("m")[-1]],
        Usage(INPUT_TOKENS),
    ),
    "a second message_delta without usage": (
        [
            *message_frames("m")[:-1],
            sse({"type": "message_delta", "delta": {}}, "message_delta"),
            message_frames("m")[-1],
        ],
        KNOWN_USAGE,
    ),
    "pings": ([b'event: ping\ndata: {"type": "ping"}\n\n', *message_frames("m")], KNOWN_USAGE),
    "long": (
        [*message_frames("m")[:2], *[text_delta("word ")] * 2000, *message_frames("m")[2:]],
        KNOWN_USAGE,
    ),
}
BAD_OPENAI = {
    "empty": ([], ErrorCode.INVALID_RESPONSE),
    "only comments": ([b": OPENROUTER PROCESSING\n\n"] * 3, ErrorCode.INVALID_RESPONSE),
    "terminal marker only": ([DONE], ErrorCode.INVALID_RESPONSE),
    "ends early": (chat_frames("m", usage=False)[:3], ErrorCode.INVALID_RESPONSE),
    "one of two choices is unfinished": (
        [two_choices(None, None), two_choices("stop", None), usage_chunk("m")],
        ErrorCode.INVALID_RESPONSE,
    ),
    "error and terminal marker": (
        list(FakeVllm.admission_refused().chunks),
        ErrorCode.BACKEND_OVERLOADED,
    ),
    "error after tokens": (
        [
            *chat_frames("m", usage=False)[:4],
            sse({"error": {"message": "EngineCore", "code": 500}}),
        ],
        ErrorCode.BACKEND_ERROR,
    ),
    "error with a finish reason": (
        list(FakeOpenRouter.failed_in_stream(429).chunks),
        ErrorCode.BACKEND_OVERLOADED,
    ),
    "finish reason error": ([chat_chunk("m", {}, "error"), DONE], ErrorCode.BACKEND_ERROR),
    "named error event": (
        list(FakeLmStudio.overflow_in_stream().chunks),
        ErrorCode.CONTEXT_LENGTH_EXCEEDED,
    ),
    "named error event, bare text": ([b"event: error\ndata: oh no\n\n"], ErrorCode.BACKEND_ERROR),
    "Venice's error_type": (list(FakeVenice.failed_in_stream().chunks), ErrorCode.BACKEND_ERROR),
    "error as text": ([sse({"error": "unloaded"})], ErrorCode.BACKEND_ERROR),
    "error after the terminal marker": (
        [*chat_frames("m", usage=True), sse({"error": {"code": 500}})],
        ErrorCode.BACKEND_ERROR,
    ),
    "error, then a complete answer": (
        [sse({"error": {"code": 500}}), *chat_frames("m", usage=False)],
        ErrorCode.BACKEND_ERROR,
    ),
    "neither finish reason nor terminal marker in a long stream": (
        [chat_chunk("m", {"content": "word "})] * 1000,
        ErrorCode.INVALID_RESPONSE,
    ),
}
GOOD_RESPONSES = {
    "typical": (responses_frames("response.completed"), KNOWN_USAGE),
    "at the token limit": (responses_frames("response.incomplete"), KNOWN_USAGE),
    "no event names": (
        [f.partition(b"\n")[2] for f in responses_frames("response.completed")],
        KNOWN_USAGE,
    ),
    "no types in the data": (
        [
            f.replace(b'"type":"response.completed",', b"")
            for f in responses_frames("response.completed")
        ],
        KNOWN_USAGE,
    ),
    "DONE after the end": ([*responses_frames("response.completed"), DONE], KNOWN_USAGE),
    "response.done": (responses_frames("response.done", status="completed"), KNOWN_USAGE),
    "long": (responses_frames("response.completed", "x" * 25 * TAIL_BYTES), KNOWN_USAGE),
    "a request that the last event repeats after the usage": (
        responses_frames("response.completed", user="x" * 2**21, tools=[{"a": "b"}] * 2**19),
        KNOWN_USAGE,
    ),
}
BAD_RESPONSES = {
    "empty": ([], ErrorCode.INVALID_RESPONSE),
    "ends early": (responses_frames("response.completed")[:-1], ErrorCode.INVALID_RESPONSE),
    "ends within the last event": (
        [b"".join(responses_frames("response.completed"))[:-40]],
        ErrorCode.INVALID_RESPONSE,
    ),
    "failed": (
        [
            *responses_frames("response.completed")[:-1],
            sse({"type": "response.failed", "response": {"error": {"code": "server_error"}}}),
        ],
        ErrorCode.BACKEND_ERROR,
    ),
    "response.done of a failed response": (
        responses_frames("response.done", status="failed"),
        ErrorCode.BACKEND_ERROR,
    ),
    "rate limited": (
        [sse({"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded"}}})],
        ErrorCode.BACKEND_OVERLOADED,
    ),
    "error event": (
        [
            *responses_frames("response.completed")[:2],
            sse({"type": "error", "code": "server_error", "message": "?"}, "error"),
        ],
        ErrorCode.BACKEND_ERROR,
    ),
    "only the terminal marker of chat": ([DONE], ErrorCode.INVALID_RESPONSE),
}
BAD_ANTHROPIC = {
    "empty": ([], ErrorCode.INVALID_RESPONSE),
    "ends early": (message_frames("m")[:4], ErrorCode.INVALID_RESPONSE),
    "a message_delta without a stop reason": (
        [
            *message_frames("m")[:-2],
            sse({"type": "message_delta", "delta": {"stop_reason": None}}, "message_delta"),
        ],
        ErrorCode.INVALID_RESPONSE,
    ),
    "only message_stop": (message_frames("m")[-1:], ErrorCode.INVALID_RESPONSE),
    "error event": (
        list(FakeVllm.engine_failed_in_messages().chunks),
        ErrorCode.BACKEND_ERROR,
    ),
    "bare error": ([*message_frames("m")[:4], BARE_ERROR], ErrorCode.BACKEND_ERROR),
    "error instead of message_stop": (
        [*message_frames("m")[:-1], BARE_ERROR],
        ErrorCode.BACKEND_ERROR,
    ),
}

STREAMS = [
    *((OPENAI, frames) for frames, _ in GOOD_OPENAI.values()),
    *((OPENAI, frames) for frames, _ in BAD_OPENAI.values()),
    *((ANTHROPIC, frames) for frames, _ in GOOD_ANTHROPIC.values()),
    *((ANTHROPIC, frames) for frames, _ in BAD_ANTHROPIC.values()),
    *((RESPONSES, frames) for frames, _ in GOOD_RESPONSES.values()),
    *((RESPONSES, frames) for frames, _ in BAD_RESPONSES.values()),
]
