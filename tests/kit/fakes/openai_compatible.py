"""A fake server of no known make: a bare OpenAI model list, both formats, no kindness beyond it."""

from typing import ClassVar

from tests.kit.fakes.frames import chat_body, chat_frames, message_body, message_frames
from tests.kit.fakes.server import Answer, Exchange, FakeServer, json_answer, stream_answer

MODEL = "acme-8b"
WINDOW = 4096


class FakeOpenAICompatible(FakeServer):
    """See the module's text."""

    kind: ClassVar[str] = "openai_compatible"

    def answer(self, exchange: Exchange) -> Answer:
        match exchange.method, exchange.path:
            case "GET", "/v1/models":
                known = {"id": MODEL, "object": "model", "context_length": WINDOW}
                return json_answer({"object": "list", "data": [known, {"id": "acme-bare"}]})
            case "POST", "/v1/chat/completions" | "/v1/messages":
                return self._job(exchange)
        return self.error(404, "no such route", exchange)

    def error(self, status: int, message: str, exchange: Exchange) -> Answer:
        return json_answer({"error": {"message": message, "code": status}}, status)

    def _job(self, exchange: Exchange) -> Answer:
        if exchange.json.get("model") != MODEL:
            return self.error(404, "model not found", exchange)
        if exchange.path == "/v1/messages":
            if exchange.is_streamed:
                return stream_answer(message_frames(MODEL))
            return json_answer(message_body(MODEL))
        if exchange.is_streamed:
            return stream_answer(chat_frames(MODEL, usage=exchange.asks_for_usage))
        return json_answer(chat_body(MODEL))
