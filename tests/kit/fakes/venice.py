"""A fake Venice server, based on its OpenAPI document of August 2026 and observed behavior.

Documented:

- The model list is public; `/v1/api_keys/rate_limits` requires a key.
- Most errors are `{"error": text}`.
- There is no Messages route, and there are no legacy completions.
- `model_spec` contains `offline` and `deprecation`.
- `pricing` has the prices of reads from and writes to a cache, and `extended` those of a prompt
  above `context_token_threshold`. Embedding models have only an input price.

Observed: errors inside a stream contain `error_type` and `error_message`.
"""

from typing import ClassVar

from provider_agent.protocol.formats import Operation
from tests.kit.fakes.frames import chat_frames, sse
from tests.kit.fakes.good_responses import good_response
from tests.kit.fakes.server import (
    FakeResponse,
    FakeServer,
    RecordedRequest,
    json_response,
    stream_response,
)

MODEL = "acme-70b"
EMBEDDER = "acme-embed"
CONTEXT_WINDOW = 65536
VERSION = "20260820.1"


class FakeVenice(FakeServer):
    """A fake Venice server."""

    kind: ClassVar[str] = "venice"
    prefix: ClassVar[str] = "/api"
    all_routes = frozenset({Operation.CHAT, Operation.EMBEDDINGS})

    def is_public(self, path: str) -> bool:
        return path == "/v1/models"

    def respond(self, request: RecordedRequest) -> FakeResponse:
        match request.method, request.path.removeprefix(self.prefix):
            case "GET", "/v1/models":
                model_type = request.query.get("type", "text")
                data = [model for model in _MODELS if model["type"] == model_type]
                body = {"object": "list", "type": model_type, "data": data}
                return json_response(body, headers={"x-venice-version": VERSION})
            case "GET", "/v1/api_keys/rate_limits":
                return json_response({"data": {"accessPermitted": True, "rateLimits": []}})
        if request.method == "POST" and request.operation in self.routes:
            return self._infer(request)
        return self.error_response(404, "Not found", request)

    def error_response(self, status: int, message: str, request: RecordedRequest) -> FakeResponse:
        return json_response({"error": message}, status)

    @staticmethod
    def failed_in_stream() -> FakeResponse:
        """An error after the first tokens of a stream."""
        error = sse({"error_type": "inference_failed", "error_message": "Upstream failed"})
        return stream_response([*chat_frames(MODEL, usage=False)[:3], error])

    @staticmethod
    def context_exceeded() -> FakeResponse:
        """A prompt over the context window: the only error in the OpenAI shape."""
        fields = {"message": "Too long.", "code": "context_length_exceeded"}
        return json_response({"error": fields}, 400)

    def _infer(self, request: RecordedRequest) -> FakeResponse:
        if request.json.get("model") not in (MODEL, EMBEDDER):
            return self.error_response(404, "Specified model not found", request)
        return good_response(request, MODEL)


def _usd(price: float) -> dict[str, float]:
    return {"usd": price, "diem": price}


DEAR_PRICING = {
    "input": _usd(6),
    "output": _usd(30),
    "cache_input": _usd(0.6),
    "cache_write": _usd(7.5),
    "extended": {
        "context_token_threshold": 200000,
        "input": _usd(11),
        "output": _usd(41.25),
        "cache_input": _usd(1.1),
        "cache_write": _usd(13.75),
    },
}


def _model(name: str, kind: str = "text", **spec: object) -> dict[str, object]:
    return {
        "id": name,
        "type": kind,
        "context_length": 131072,
        "model_spec": {
            "availableContextTokens": CONTEXT_WINDOW,
            "privacy": "private",
            "pricing": {"input": _usd(0.5), "output": _usd(2)},
            "deprecation": None,
            **spec,
        },
    }


_MODELS = [
    _model(
        MODEL,
        maxCompletionTokens=8192,
        capabilities={
            "supportsFunctionCalling": True,
            "supportsReasoning": False,
            "supportsResponseSchema": True,
            "supportsVision": False,
            "quantization": "fp8",
        },
    ),
    _model("acme-offline", offline=True),
    _model("acme-retired", deprecation={"date": "2020-01-01T00:00:00.000Z"}),
    _model("acme-retiring", deprecation={"date": "2999-01-01T00:00:00.000Z"}),
    _model("acme-dear", pricing=DEAR_PRICING),
    _model("acme-internal", pricing=None),
    _model("acme-image", "image"),
    _model(EMBEDDER, "embedding", pricing={"input": _usd(0.15)}),
]
