"""A fake llama.cpp server, for what the real one of the tests is too quick or too small to show.

Recorded: while a model loads, every route answers 503 `Loading model`; errors have OpenAI's shape
on every route; `{}` to Messages is a 500; unknown routes answer 404 `File Not Found`. Documented
(`tools/server/README.md`): a server without a model is a router, whose list has `status.value`
and whose `/props` says `role: "router"`; `/props` and `/models` wake nothing; `--embeddings`
alone makes chat a 501; ids are file paths unless there is an alias; `/v1/models` needs no key.
"""

from typing import ClassVar

from tests.kit.fakes.frames import chat_body, chat_frames, message_body, message_frames
from tests.kit.fakes.server import Answer, Exchange, FakeServer, json_answer, stream_answer

FILE = "/models/acme-8b-Q4_K_M-00001-of-00002.gguf"
MODEL = "acme-8b-Q4_K_M"
WINDOW = 16384
SLOTS = 3


class FakeLlamaCpp(FakeServer):
    """See the module's text.

    Attributes:
        loading: the model is not there yet.
        sleeping: the model was unloaded; any inference route wakes it.
        embeddings_only: started for embeddings.
        messages: whether this build has the Messages routes.
        router: the models behind a router and their states; None: a single model.
        woken: the models that a request has loaded or woken.
    """

    kind: ClassVar[str] = "llamacpp"

    def __init__(self, *, api_key: str | None = None) -> None:
        super().__init__(api_key=api_key)
        self.loading = False
        self.sleeping = False
        self.embeddings_only = False
        self.messages = True
        self.router: dict[str, str] | None = None
        self.woken: list[str] = []

    def is_open(self, path: str) -> bool:
        return path in ("/health", "/v1/models")

    def answer(self, exchange: Exchange) -> Answer:
        if self.loading:
            return self.error(503, "Loading model", exchange)
        match exchange.method, exchange.path:
            case "GET", "/health":
                return json_answer({"status": "ok"})
            case "GET", "/v1/models":
                return json_answer(self._models())
            case "GET", "/props":
                return json_answer(self._props())
            case "POST", "/v1/chat/completions":
                return self._infer(exchange)
            case "POST", "/v1/messages" | "/v1/messages/count_tokens" if self.messages:
                return self._infer(exchange)
        return self.error(404, "File Not Found", exchange)

    def error(self, status: int, message: str, exchange: Exchange) -> Answer:
        kind = "unavailable_error" if status == 503 else "invalid_request_error"
        return json_answer({"error": {"code": status, "message": message, "type": kind}}, status)

    @staticmethod
    def context_exceeded() -> Answer:
        """The prompt does not fit; recorded."""
        fields = {
            "code": 400,
            "message": "request (32026 tokens) exceeds the available context size (2048 tokens)",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 32026,
            "n_ctx": 2048,
        }
        return json_answer({"error": fields}, 400)

    def _models(self) -> dict[str, object]:
        if self.router is not None:
            states = self.router.items()
            data = [{"id": name, "status": {"value": state}} for name, state in states]
            return {"object": "list", "data": data}
        meta = {"n_ctx_train": 131072, "n_ctx": WINDOW}
        described = {"name": FILE, "model": FILE, "capabilities": ["completion"]}
        return {"object": "list", "models": [described], "data": [{"id": FILE, "meta": meta}]}

    def _props(self) -> dict[str, object]:
        asked = "model" in self.exchanges[-1].query
        if self.router is not None and not asked:
            return {"role": "router", "build_info": "b9999"}
        return {
            "default_generation_settings": {"n_ctx": WINDOW, "params": {"n_predict": -1}},
            "total_slots": SLOTS,
            "model_path": FILE,
            "build_info": "b9999",
            "is_sleeping": self.sleeping,
        }

    def _infer(self, exchange: Exchange) -> Answer:
        asked = str(exchange.json.get("model"))
        if self.sleeping or (self.router or {}).get(asked, "loaded") != "loaded":
            self.woken.append(asked)
        if self.embeddings_only:
            return self.error(501, "This server does not support completions.", exchange)
        if exchange.path.endswith("/count_tokens"):
            return json_answer({"input_tokens": 28})
        if "messages" not in exchange.json:
            missing = 400 if "chat" in exchange.path else 500
            return self.error(missing, "'messages' is required", exchange)
        if "chat" in exchange.path:
            if exchange.is_streamed:
                frames = chat_frames(MODEL, usage=exchange.asks_for_usage, first=None)
                return stream_answer(frames)
            return json_answer(chat_body(MODEL))
        if exchange.is_streamed:
            start = {"cache_read_input_tokens": 20, "input_tokens": 1, "output_tokens": 0}
            return stream_answer(message_frames(MODEL, start_usage=start))
        return json_answer(message_body(MODEL))
