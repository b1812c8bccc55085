"""A fake OpenRouter, based on its documentation and observed behavior.

Documented:

- Comments `: OPENROUTER PROCESSING` precede the first token.
- The last chunk contains the usage, whether requested or not.
- An error inside a stream is a chunk with a top-level `error` and `finish_reason: "error"`.
- An error of the upstream provider can be a 200 with `error` in the body.
- `provider.max_price` excludes providers above a price (US dollars per million tokens).
- A request that a guardrail blocks is a 403 with the reason.
- `supported_parameters` is the union over the providers of a model.
- Prices are US dollars per token, as text; -1 stands for a variable price. Besides `prompt` and
  `completion` there are prices of cache writes, reasoning, images and audio, fees per request,
  image and search, and `overrides` for long prompts or times of day.

Observed: the public model list answers 200 to an invalid key.
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
CONTEXT_WINDOW = 65536
_COMMENT = b": OPENROUTER PROCESSING\n\n"


class FakeOpenRouter(FakeServer):
    """A fake OpenRouter.

    Attributes:
        user_models: whether the account has its own model list.
        limit_remaining: remaining credit of the key; None: no limit.
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
        """An error of the upstream provider within a stream."""
        error = chat_chunk(MODEL, {"content": ""}, "error", error={"code": code, "message": "Oh"})
        return stream_response([_COMMENT, *chat_frames(MODEL, usage=False)[:3], error])

    @staticmethod
    def blocked() -> list[FakeResponse]:
        """A guardrail blocked the request; on chat, and on Messages."""
        message = "Request blocked: prompt injection patterns detected"
        chat: dict[str, object] = {"code": 403, "message": message, "metadata": {}}
        messages: dict[str, object] = {"type": "permission_error", "message": message}
        return [
            json_response({"error": chat}, 403),
            json_response({"type": "error", "error": messages}, 403),
        ]

    @staticmethod
    def failed_with_200() -> FakeResponse:
        """An error of the upstream provider with status 200."""
        return json_response({"error": {"code": 429, "message": "Provider returned error"}})

    def _infer(self, request: RecordedRequest) -> FakeResponse:
        if request.json.get("model") not in (MODEL, EMBEDDER):
            return self.error_response(404, "No endpoints found for x.", request)
        if _is_too_expensive(request.json.get("provider")):
            return self.error_response(404, "No endpoints satisfy the max price.", request)
        response = good_response(request, MODEL, always_usage=True)
        if request.is_streamed:
            return replace(response, chunks=(_COMMENT, _COMMENT, *response.chunks))
        return response


def _is_too_expensive(preferences: object) -> bool:
    """Whether `provider.max_price` excludes the only provider of the models."""
    limits = preferences.get("max_price", {}) if isinstance(preferences, dict) else {}
    return any(float(str(_pricing()[name])) * 1e6 > limit for name, limit in limits.items())


def _pricing(**prices: object) -> dict[str, object]:
    return {"prompt": "0.00000059", "completion": "0.00000079", "request": "0", **prices}


DEAR_PRICING = _pricing(
    input_cache_read="0.00000006",
    input_cache_write="0.00000074",
    input_cache_write_1h="0.00000118",
    internal_reasoning="0.0000009",
    web_search="0.01",
    discount=0.15,
    overrides=[
        {"min_prompt_tokens": 200000, "prompt": "0.0000012", "input_cache_write": "0.0000015"},
        {"utc_start": 1630, "utc_end": 30, "completion": "0.0000008"},
    ],
)
"""The highest prices are those of a long prompt that is written to the cache, and of reasoning."""


def _model(name: str, **fields: object) -> dict[str, object]:
    return {
        "id": name,
        "canonical_slug": name,
        "context_length": 131072,
        "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
        "pricing": _pricing(),
        "top_provider": {"context_length": CONTEXT_WINDOW, "max_completion_tokens": 8192},
        "expiration_date": None,
        **fields,
    }


_MODELS = [
    _model(
        MODEL,
        architecture={"input_modalities": ["text", "image", "file"], "output_modalities": ["text"]},
        supported_parameters=["max_tokens", "structured_outputs", "tools"],
    ),
    _model("acme/auto", pricing={"prompt": "-1", "completion": "-1"}, top_provider={}),
    _model("acme/image", architecture={"output_modalities": ["image", "text"]}),
    _model(EMBEDDER, architecture={"output_modalities": ["embeddings"]}),
    _model("acme/gone", expiration_date="2020-01-01"),
    _model("acme/dear", pricing=DEAR_PRICING),
    _model("acme/fee", pricing=_pricing(request="0.005")),
    _model(
        "acme/image-fee",
        architecture={"input_modalities": ["text", "image"], "output_modalities": ["text"]},
        pricing=_pricing(image="0.001445"),
    ),
    _model("acme/text-only", pricing=_pricing(image="0.001445", audio="0.0001")),
    _model(
        "acme/search",
        pricing=_pricing(web_search="0.005"),
        supported_parameters=["max_tokens", "web_search_options"],
    ),
    _model("acme/new-price", pricing=_pricing(input_thoughts="0.000001")),
    _model("acme/odd-tiers", pricing=_pricing(overrides="none")),
    {"id": 7},
]
