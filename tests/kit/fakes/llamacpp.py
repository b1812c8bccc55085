"""A fake llama.cpp server, for states that tests cannot produce in a real server.

Recorded from a real server:

- While a model loads, every route answers 503 `Loading model`.
- Errors have OpenAI's shape on every route; unknown routes answer 404 `File Not Found`.
- An empty request is answered with 500 by Messages and `count_tokens`, with 501 by embeddings if
  they are disabled, and with 400 by all other routes.
- Other invalid requests are answered with 500 too (`invalid_requests`; users reported the last of
  them).
- Embeddings answer 400 if the model has no pooling. `/metrics` answers 501 unless it is enabled.
- `/props` has `modalities` and `chat_template_caps`.

Documented in `tools/server/README.md`:

- A server that was started without a model is a router: its model list has `status.value`, and
  its `/props` has `role: "router"`. `/props` and `/models` do not wake a model.
- With `--embeddings` alone, chat answers 501.
- A model id is the file path unless there is an alias. `/v1/models` requires no key.
"""

from typing import ClassVar

from provider_agent.protocol.formats import Operation
from tests.kit.fakes.good_responses import good_response
from tests.kit.fakes.server import FakeResponse, FakeServer, RecordedRequest, json_response

FILE = "/models/acme-8b-Q4_K_M-00001-of-00002.gguf"
MODEL = "acme-8b-Q4_K_M"
CONTEXT_WINDOW = 16384
SLOTS = 3


class FakeLlamaCpp(FakeServer):
    """A fake llama.cpp server.

    Attributes:
        loading: the model is still loading.
        sleeping: the model was unloaded; a request to an inference route wakes it.
        embeddings_only: started with embeddings and without generation.
        embeddings: started with embeddings and generation.
        pooling: whether the model supports embeddings in the OpenAI format.
        busy: slots in use.
        deferred: queued requests; None: `/metrics` is disabled.
        prompts: in `/metrics`: the prompt tokens processed so far, and the seconds it took.
        outputs: in `/metrics`: the tokens generated so far, and the seconds it took.
        slots: whether `/slots` is enabled.
        total_slots: the number of slots that `/props` reports.
        tools: whether the model's chat template supports tools.
        router: the models of a router and their states; None: a single model.
        woken: the model of each request that loaded or woke a model.
    """

    kind: ClassVar[str] = "llamacpp"

    def __init__(self, *, api_key: str | None = None) -> None:
        super().__init__(api_key=api_key)
        self.loading = False
        self.sleeping = False
        self.embeddings_only = False
        self.embeddings = False
        self.pooling = True
        self.busy = 2
        self.deferred: int | None = None
        self.prompts = (0, 0.0)
        self.outputs = (0, 0.0)
        self.slots = True
        self.total_slots = SLOTS
        self.tools = True
        self.router: dict[str, str] | None = None
        self.woken: list[str] = []

    def is_public(self, path: str) -> bool:
        return path in ("/health", "/v1/models")

    def respond(self, request: RecordedRequest) -> FakeResponse:
        if self.loading:
            return self.error_response(503, "Loading model", request)
        match request.method, request.path:
            case "GET", "/health":
                return json_response({"status": "ok"})
            case "GET", "/v1/models":
                return json_response(self._models())
            case "GET", "/props":
                return json_response(self._props())
            case "GET", "/slots":
                return self._slots(request)
            case "GET", "/metrics" if self.deferred is not None:
                text = (
                    f"llamacpp:requests_processing 9\nllamacpp:requests_deferred {self.deferred}\n"
                    f"llamacpp:prompt_tokens_total {self.prompts[0]}\n"
                    f"llamacpp:prompt_seconds_total {self.prompts[1]}\n"
                    f"llamacpp:tokens_predicted_total {self.outputs[0]}\n"
                    f"llamacpp:tokens_predicted_seconds_total {self.outputs[1]}\n"
                )
                return FakeResponse((text.encode(),), content_type="text/plain; version=0.0.4")
            case "GET", "/metrics":
                return self.error_response(
                    501, "This server does not support metrics endpoint.", request
                )
        if request.method == "POST" and request.operation in self.routes:
            return self._infer(request)
        return self.error_response(404, "File Not Found", request)

    def error_response(self, status: int, message: str, request: RecordedRequest) -> FakeResponse:
        kind = "unavailable_error" if status == 503 else "invalid_request_error"
        return json_response({"error": {"code": status, "message": message, "type": kind}}, status)

    @staticmethod
    def invalid_requests() -> list[FakeResponse]:
        """The recorded responses to invalid requests that have status 500."""
        return [
            json_response({"error": {"code": 500, "message": text, "type": "server_error"}}, 500)
            for text in (
                "'messages' is required",
                (
                    "image input is not supported - hint: if this is unexpected, you may need to "
                    "provide the mmproj"
                ),
                'Failed to parse tools: Unsupported tool type: {"type":"x"}; tools = [...]',
                'Failed to parse messages: Missing \'role\' in message: {"content":"hi"}',
                "Failed to parse messages: [json.exception.type_error.302] type must be string",
                "Unknown reasoning format: bad",
                "Cannot use both json_schema and grammar",
                "got exception: Unexpected empty grammar stack after accepting piece: \x1b (30)",
                (
                    "\n----\nWhile executing CallExpression at line 19, column 27 in source:\n...\n"
                    "Error: Jinja Exception: Conversation roles must alternate user/assistant/..."
                ),
            )
        ]

    @staticmethod
    def context_exceeded() -> FakeResponse:
        """The recorded response to a prompt that exceeds the context window."""
        fields = {
            "code": 400,
            "message": "request (32026 tokens) exceeds the available context size (2048 tokens)",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 32026,
            "n_ctx": 2048,
        }
        return json_response({"error": fields}, 400)

    def _models(self) -> dict[str, object]:
        if self.router is not None:
            states = self.router.items()
            data = [{"id": name, "status": {"value": state}} for name, state in states]
            return {"object": "list", "data": data}
        meta = {"n_ctx_train": 131072, "n_ctx": CONTEXT_WINDOW}
        model = {"name": FILE, "model": FILE, "capabilities": ["completion"]}
        entry = {"id": FILE, "owned_by": "llamacpp", "meta": meta}
        return {"object": "list", "models": [model], "data": [entry]}

    def _props(self) -> dict[str, object]:
        names_model = "model" in self.requests[-1].query
        if self.router is not None and not names_model:
            return {"role": "router", "build_info": "b9999"}
        return {
            "default_generation_settings": {"n_ctx": CONTEXT_WINDOW, "params": {"n_predict": -1}},
            "total_slots": self.total_slots,
            "model_path": FILE,
            "build_info": "b9999",
            "is_sleeping": self.sleeping,
            "modalities": {"vision": True, "video": False, "audio": False},
            "chat_template_caps": {
                "supports_tools": self.tools,
                "supports_reasoning_effort": False,
            },
        }

    def _slots(self, request: RecordedRequest) -> FakeResponse:
        if not self.slots:
            return self.error_response(501, "This server does not support slots endpoint.", request)
        slots = [{"id": slot, "is_processing": slot < self.busy} for slot in range(SLOTS)]
        return json_response(slots)

    def _infer(self, request: RecordedRequest) -> FakeResponse:
        model = str(request.json.get("model"))
        if self.sleeping or (self.router or {}).get(model, "loaded") != "loaded":
            self.woken.append(model)
        is_embedding = request.operation is Operation.EMBEDDINGS
        if self.embeddings_only and not is_embedding:
            return self.error_response(501, "This server does not support completions.", request)
        if is_embedding and not (self.embeddings or self.embeddings_only):
            return self.error_response(501, "This server does not support embeddings.", request)
        if is_embedding and not self.pooling:
            return self.error_response(400, "Pooling type 'none' is not OAI compatible.", request)
        if not request.is_job:
            anthropic = request.path.startswith("/v1/messages")
            return self.error_response(500 if anthropic else 400, "'messages' is required", request)
        start = {"cache_read_input_tokens": 20, "input_tokens": 1, "output_tokens": 0}
        return good_response(request, MODEL, first=None, start_usage=start)
