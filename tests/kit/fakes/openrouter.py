"""A fake OpenRouter, after its documentation and what others observed.

Documented: comments `: OPENROUTER PROCESSING` before the first token; usage in the last chunk,
asked for or not; errors inside a stream as a chunk with a top-level `error` and `finish_reason:
"error"`; a failed provider may come back as 200 with `error` in the body; prices are US dollars
per token, as text, and -1 where they depend. Observed: the public model list answers a made-up
key with 200.
"""

from dataclasses import replace
from typing import ClassVar

from provider_agent.protocol.formats import Operation
from tests.kit.fakes.frames import chat_chunk, chat_frames
from tests.kit.fakes.good_responses import good_response
from tests.kit.fakes.server import (
    FakeResponse,
    FakeServer,
    RecordedRequest,
    json_response,
    stream_response,
)

MODEL = "acme/acme-70b"
EMBEDDER = "acme/embed"
WINDOW = 65536
_COMMENT = b": OPENROUTER PROCESSING\n\n"


class FakeOpenRouter(FakeServer):
    """See the module's text.

    Attributes:
        user_models: whether the account has its own model list.
        limit_remaining: what may still be spent; None: no limit.
    """

    kind: ClassVar[str] = "openrouter"
    prefix: ClassVar[str] = "/api"
    all_routes = frozenset(Operation) - {Operation.COUNT_TOKENS}

    def __init__(self, *, api_key: str | None = None) -> None:
        super().__init__(api_key=api_key)
        self.user_models = True
        self.limit_remaining: float | None = None

    def is_public(self, path: str) -> bool:
        return path == "/v1/models"

    def respond(self, request: RecordedRequest) -> FakeResponse:
        match request.method, request.path.removeprefix(self.prefix):
            case "GET", "/v1/key":
                key = {"label": "sk-or-v1-abc...xyz", "limit_remaining": self.limit_remaining}
                return json_response({"data": key})
            case "GET", "/v1/models/user" if self.user_models:
                return json_response({"data": _MODELS})
            case "GET", "/v1/models":
                return json_response({"data": [*_MODELS, _model("acme/everywhere")]})
        if request.method == "POST" and request.operation in self.routes:
            return self._infer(request)
        return self.error_response(404, "Not Found", request)

    def error_response(self, status: int, message: str, request: RecordedRequest) -> FakeResponse:
        if request.path.endswith("/messages"):
            fields: dict[str, object] = {"type": "api_error", "message": message}
            return json_response({"type": "error", "error": fields, "request_id": "r"}, status)
        fields = {"code": status, "message": message, "metadata": {}}
        return json_response({"error": fields}, status)

    @staticmethod
    def failed_in_stream(code: int = 502) -> FakeResponse:
        """The provider failed in the middle of its answer."""
        failed = chat_chunk(MODEL, {"content": ""}, "error", error={"code": code, "message": "Oh"})
        return stream_response([_COMMENT, *chat_frames(MODEL, usage=False)[:3], failed])

    @staticmethod
    def failed_with_200() -> FakeResponse:
        """The provider failed before it began; the status says success."""
        return json_response({"error": {"code": 429, "message": "Provider returned error"}})

    def _infer(self, request: RecordedRequest) -> FakeResponse:
        if request.json.get("model") not in (MODEL, EMBEDDER):
            return self.error_response(404, "No endpoints found for x.", request)
        answer = good_response(request, MODEL, always_usage=True)
        if request.is_streamed:
            return replace(answer, chunks=(_COMMENT, _COMMENT, *answer.chunks))
        return answer


def _model(name: str, **different: object) -> dict[str, object]:
    return {
        "id": name,
        "canonical_slug": name,
        "context_length": 131072,
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
        "pricing": {"prompt": "0.00000059", "completion": "0.00000079", "request": "0"},
        "top_provider": {"context_length": WINDOW, "max_completion_tokens": 8192},
        "expiration_date": None,
        **different,
    }


_MODELS = [
    _model(MODEL),
    _model("acme/auto", pricing={"prompt": "-1", "completion": "-1"}, top_provider={}),
    _model("acme/paints", architecture={"output_modalities": ["image", "text"]}),
    _model(EMBEDDER, architecture={"output_modalities": ["embeddings"]}),
    _model("acme/gone", expiration_date="2020-01-01"),
    {"id": 7},
]
