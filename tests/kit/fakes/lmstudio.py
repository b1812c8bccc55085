"""A fake LM Studio server, based on its documentation and issue tracker.

Documented:

- `/api/v1/models` (since 0.4.0) and `/api/v0/models` (since 0.3.6) list the type of each model,
  whether it is loaded, and its context window.
- The Messages API exists since 0.4.1. A stream reports usage only with `include_usage`.

From its issue tracker, with issue numbers:

- Unknown routes answer 200 with `Unexpected endpoint or method` (1323, 2055, 2085).
- A context overflow is a 200 with an error in the stream (2322) or an empty stream (2339).
"""

from typing import ClassVar, Literal

from provider_agent.protocol.formats import Operation
from tests.kit.fakes.frames import sse
from tests.kit.fakes.good_responses import good_response
from tests.kit.fakes.server import (
    FakeResponse,
    FakeServer,
    RecordedRequest,
    json_response,
    stream_response,
)

MODEL = "acme/acme-8b"
EMBEDDER = "acme-embed"
UNLOADED = "acme/acme-70b"
CONTEXT_WINDOW = 8192
PARALLEL = 4


class FakeLmStudio(FakeServer):
    """A fake LM Studio server.

    Attributes:
        api: the API of the newest model list that the server has.
        parallel: how many requests the loaded model runs at once.
        remote: whether the server lists a model of another machine (LM Link).
    """

    kind: ClassVar[str] = "lmstudio"
    all_routes = frozenset(Operation) - {Operation.COUNT_TOKENS}

    def __init__(self, *, api_key: str | None = None) -> None:
        super().__init__(api_key=api_key)
        self.api: Literal["v1", "v0", "openai"] = "v1"
        self.remote = False
        self.parallel = PARALLEL

    def respond(self, request: RecordedRequest) -> FakeResponse:
        match request.method, request.path:
            case "GET", "/api/v1/models" if self.api == "v1":
                return json_response({"models": self._models()})
            case "GET", "/api/v0/models" if self.api in ("v1", "v0"):
                return json_response({"object": "list", "data": _V0_MODELS})
            case "GET", "/v1/models":
                data = [{"id": model} for model in (MODEL, UNLOADED, EMBEDDER)]
                return json_response({"object": "list", "data": data})
        if request.method == "POST" and request.operation in self.routes:
            return self._infer(request)
        method, path = request.method, request.path
        unexpected = f"Unexpected endpoint or method. ({method} {path}). Returning 200 anyway"
        return json_response({"error": unexpected})

    def _models(self) -> list[object]:
        config = {"context_length": CONTEXT_WINDOW, "parallel": self.parallel}
        loaded = {**_MODELS[0], "loaded_instances": [{"id": MODEL, "config": config}]}
        return [loaded, *_MODELS[1:], *([_REMOTE] if self.remote else [])]

    def error_response(self, status: int, message: str, request: RecordedRequest) -> FakeResponse:
        kind = "invalid_api_key" if status == 401 else "invalid_request_error"
        fields = {"message": message, "type": kind, "param": None, "code": None}
        if request.path == "/v1/messages":
            return json_response({"type": "error", "error": fields}, status)
        return json_response({"error": fields}, status)

    @staticmethod
    def overflow_in_stream() -> FakeResponse:
        """A context overflow as an error in a stream with status 200."""
        text = "The number of tokens to keep is greater than the context length"
        return stream_response([sse({"error": {"message": text}, "message": text}, "error")])

    @staticmethod
    def empty_stream() -> FakeResponse:
        """A context overflow as an empty stream."""
        return stream_response([])

    @staticmethod
    def error_body() -> FakeResponse:
        """An error as a JSON body with status 200."""
        return json_response({"error": "Model is unloaded."})

    def _infer(self, request: RecordedRequest) -> FakeResponse:
        if not request.is_job:
            return self.error_response(400, "'messages' field is required", request)
        if request.json.get("model") not in (MODEL, EMBEDDER):
            return self.error_response(404, "No models loaded.", request)
        return good_response(request, MODEL)


_MODELS = [
    {
        "type": "llm",
        "key": MODEL,
        "architecture": "acme",
        "max_context_length": 131072,
        "capabilities": {
            "vision": True,
            "trained_for_tool_use": True,
            "reasoning": {"allowed_options": ["off", "on"], "default": "on"},
        },
    },
    {
        "type": "llm",
        "key": UNLOADED,
        "max_context_length": 131072,
        "loaded_instances": [],
        "capabilities": {"vision": False, "trained_for_tool_use": False},
    },
    {
        "type": "embedding",
        "key": EMBEDDER,
        "max_context_length": 2048,
        "loaded_instances": [{"id": EMBEDDER, "config": {"context_length": 2048}}],
    },
]
_REMOTE = {
    "type": "llm",
    "key": "acme/remote",
    "loaded_instances": [
        {
            "id": "acme/remote",
            "config": {"context_length": CONTEXT_WINDOW},
            "deviceIdentifier": "d1",
        }
    ],
}
_V0_MODELS = [
    {
        "id": MODEL,
        "object": "model",
        "type": "llm",
        "state": "loaded",
        "max_context_length": 131072,
        "loaded_context_length": CONTEXT_WINDOW,
        "capabilities": ["tool_use"],
    },
    {
        "id": UNLOADED,
        "object": "model",
        "type": "vlm",
        "state": "not-loaded",
        "max_context_length": 131072,
    },
    {"id": EMBEDDER, "object": "model", "type": "embeddings", "state": "loaded"},
]
