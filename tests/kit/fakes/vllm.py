"""A fake vLLM, after a recorded 0.32.0.

Recorded: 401 is `{"error":"Unauthorized"}`, a string, and only below `/v1`; unknown routes answer
`{"detail":"Not Found"}`; an empty request to Messages is a 400 in OpenAI's shape;
`stream_options` without a stream is a 400; a refused admission may come as 200, an error frame of
code 503 and `[DONE]`; headers of a queued stream come at once (`Fault.HANG_AFTER_HEADERS`); a
dead engine ends Messages with `event: error` and no `message_stop`. Documented: LoRA entries have
a parent and no window; pooling models refuse generation with "does not support".
"""

from typing import ClassVar

from tests.kit.fakes.frames import (
    DONE,
    INPUT_TOKENS,
    OUTPUT_TOKENS,
    chat_body,
    chat_frames,
    message_body,
    message_frames,
    sse,
)
from tests.kit.fakes.server import Answer, Exchange, FakeServer, json_answer, stream_answer

MODEL = "acme/acme-8b"
ADAPTER = "acme-8b-law"
WINDOW = 32768


class FakeVllm(FakeServer):
    """See the module's text.

    Attributes:
        messages: whether this version has the Messages route.
        pooling: it serves an embedding model.
        dead: the engine died.
    """

    kind: ClassVar[str] = "vllm"

    def __init__(self, *, api_key: str | None = None) -> None:
        super().__init__(api_key=api_key)
        self.messages = True
        self.pooling = False
        self.dead = False

    def is_open(self, path: str) -> bool:
        return not path.startswith("/v1")

    def answer(self, exchange: Exchange) -> Answer:
        match exchange.method, exchange.path:
            case "GET", "/health":
                return Answer(status=503 if self.dead else 200)
            case "GET", "/version":
                return json_answer({"version": "0.32.0"})
            case "GET", "/v1/models":
                return json_answer({"object": "list", "data": [_BASE, _LORA]})
            case "POST", "/v1/chat/completions":
                return self._chat(exchange)
            case "POST", "/v1/messages" if self.messages:
                return self._messages(exchange)
        return json_answer({"detail": "Not Found"}, 404)

    def error(self, status: int, message: str, exchange: Exchange) -> Answer:
        if status == 401:
            return json_answer({"error": "Unauthorized"}, 401)
        fields: dict[str, object] = {"message": message, "type": "Error"}
        if exchange.path == "/v1/messages" and exchange.is_job:
            return json_answer({"type": "error", "error": fields}, status)
        return json_answer({"error": {**fields, "param": None, "code": status}}, status)

    @staticmethod
    def admission_refused() -> Answer:
        """Too many waiting, noticed only after the headers went out."""
        fields = {"message": "The engine is currently busy.", "type": "Error", "code": 503}
        return stream_answer([sse({"error": fields}), DONE])

    @staticmethod
    def engine_died_in_messages() -> Answer:
        """The engine was killed while it streamed a message."""
        fields = {"type": "internal_error", "message": "2 validation errors for a response"}
        failed = sse({"type": "error", "error": fields}, "error")
        return stream_answer([*message_frames(MODEL)[:4], failed])

    def _refusal(self, exchange: Exchange) -> Answer | None:
        if self.pooling:
            return self.error(400, "The model does not support this API", exchange)
        if not exchange.is_job:
            return self.error(400, "1 validation error: Field required", exchange)
        if exchange.json.get("model") not in (MODEL, ADAPTER):
            return self.error(404, "The model `x` does not exist.", exchange)
        return None

    def _chat(self, exchange: Exchange) -> Answer:
        refusal = self._refusal(exchange)
        if refusal:
            return refusal
        if exchange.is_streamed:
            return stream_answer(chat_frames(MODEL, usage=exchange.asks_for_usage))
        if "stream_options" in exchange.json:
            return self.error(400, "Stream options need `stream=True`.", exchange)
        return json_answer(chat_body(MODEL))

    def _messages(self, exchange: Exchange) -> Answer:
        refusal = self._refusal(exchange)
        if refusal:
            return refusal
        if exchange.is_streamed:
            ended = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
            return stream_answer(message_frames(MODEL, end_usage=ended))
        return json_answer(message_body(MODEL))


_BASE = {
    "id": MODEL,
    "object": "model",
    "created": 1,
    "owned_by": "vllm",
    "root": "acme/Acme-8B",
    "parent": None,
    "max_model_len": WINDOW,
}
_LORA = {
    "id": ADAPTER,
    "object": "model",
    "created": 1,
    "owned_by": "vllm",
    "root": "/adapters/law",
    "parent": MODEL,
}
