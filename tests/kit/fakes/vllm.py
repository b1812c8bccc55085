"""A fake vLLM server, based on recorded responses of 0.32.0.

Recorded:

- Only routes below `/v1` require a key. Their 401 is `{"error":"Unauthorized"}`.
- Unknown routes answer `{"detail":"Not Found"}`; an unknown model is a 404 in the error shape of
  the route.
- A generating model has no embeddings route.
- `stream_options` in a request that is not streamed is a 400.
- Some invalid requests are a 500 (`invalid_requests`).
- `"stream": "true"`, `"yes"`, `1` and `1.0` request a stream.
- A Responses stream begins with `response.created` and `response.in_progress`, before the request
  waits in the queue (`Fault.HANG_AFTER_FIRST_CHUNK`).
- If the queue is full, a streamed request gets a 200 with an error event of code 503 and `[DONE]`.
- While a streamed request waits in the queue, its response headers are already sent
  (`Fault.HANG_AFTER_HEADERS`).
- If the engine fails, a Messages stream ends with `event: error`, without `message_stop`.

Documented:

- LoRA adapters in the model list have a parent and no context window.
- Pooling models reject generation with "does not support", before they check the model name.
"""

from typing import ClassVar

from provider_agent.protocol.formats import Operation
from tests.kit.fakes.frames import DONE, INPUT_TOKENS, OUTPUT_TOKENS, message_frames, sse
from tests.kit.fakes.good_responses import good_response
from tests.kit.fakes.server import (
    FakeResponse,
    FakeServer,
    RecordedRequest,
    json_response,
    stream_response,
)

MODEL = "acme/acme-8b"
LORA_ADAPTER = "acme-8b-law"
CONTEXT_WINDOW = 32768


class FakeVllm(FakeServer):
    """A fake vLLM server.

    Attributes:
        version: the version at `/version`.
        pooling: whether the model only computes embeddings.
        engine_failed: whether `/health` reports a failed engine.
        metrics: the text at `/metrics`; None: the route does not exist.
    """

    kind: ClassVar[str] = "vllm"
    all_routes = frozenset(Operation) - {Operation.EMBEDDINGS}

    def __init__(self, *, api_key: str | None = None) -> None:
        super().__init__(api_key=api_key)
        self.version = "0.32.0"
        self.metrics: str | None = METRICS
        self.pooling = False
        self.engine_failed = False

    def is_public(self, path: str) -> bool:
        return not path.startswith("/v1")

    def respond(self, request: RecordedRequest) -> FakeResponse:
        match request.method, request.path:
            case "GET", "/health":
                return FakeResponse(status=503 if self.engine_failed else 200)
            case "GET", "/version":
                return json_response({"version": self.version})
            case "GET", "/metrics" if self.metrics is not None:
                return FakeResponse(
                    (self.metrics.encode(),), content_type="text/plain; version=0.0.4"
                )
            case "GET", "/v1/models":
                return json_response({"object": "list", "data": [_BASE, _LORA]})
        if request.method == "POST" and request.operation in self.routes:
            return self._rejection(request) or self._infer(request)
        return json_response({"detail": "Not Found"}, 404)

    def error_response(self, status: int, message: str, request: RecordedRequest) -> FakeResponse:
        if status == 401:
            return json_response({"error": "Unauthorized"}, 401)
        fields: dict[str, object] = {"message": message, "type": "Error"}
        if request.path.startswith("/v1/messages"):
            return json_response({"type": "error", "error": fields}, status)
        return json_response({"error": {**fields, "param": None, "code": status}}, status)

    @staticmethod
    def invalid_requests() -> list[FakeResponse]:
        """The recorded responses to a field of the wrong type, and to a tool without `function`."""
        return [
            json_response(
                {
                    "error": {
                        "message": text,
                        "type": "InternalServerError",
                        "param": None,
                        "code": 500,
                    }
                },
                500,
            )
            for text in ("'int' object has no attribute 'get'", "'function'")
        ]

    @staticmethod
    def admission_refused() -> FakeResponse:
        """A full queue, reported after the headers of the stream."""
        fields = {"message": "The engine is currently busy.", "type": "Error", "code": 503}
        return stream_response([sse({"error": fields}), DONE])

    @staticmethod
    def engine_failed_in_messages() -> FakeResponse:
        """The engine failed while it streamed a message."""
        fields = {"type": "internal_error", "message": "2 validation errors for a response"}
        error = sse({"type": "error", "error": fields}, "error")
        return stream_response([*message_frames(MODEL)[:4], error])

    def _rejection(self, request: RecordedRequest) -> FakeResponse | None:
        if self.pooling is not (request.operation is Operation.EMBEDDINGS):
            return self.error_response(400, "The model does not support this API", request)
        if request.json.get("model") not in (MODEL, LORA_ADAPTER):
            return self.error_response(404, "The model `x` does not exist.", request)
        return None

    def _infer(self, request: RecordedRequest) -> FakeResponse:
        if "stream_options" in request.json and not request.is_streamed:
            return self.error_response(400, "Stream options need `stream=True`.", request)
        usage = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
        return good_response(request, MODEL, end_usage=usage)


METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="acme/acme-8b"} 3.0
vllm:num_requests_running{engine="1",model_name="acme/acme-8b"} 2.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="acme/acme-8b"} 1.0
vllm:num_requests_waiting{engine="1",model_name="acme/acme-8b"} 0.0
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",model_name="acme/acme-8b",reason="capacity"} 1.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="acme/acme-8b"} 0.5
vllm:kv_cache_usage_perc{engine="1",model_name="acme/acme-8b"} 0.25
"""
_BASE = {
    "id": MODEL,
    "object": "model",
    "created": 1,
    "owned_by": "vllm",
    "root": "acme/Acme-8B",
    "parent": None,
    "max_model_len": CONTEXT_WINDOW,
}
_LORA = {
    "id": LORA_ADAPTER,
    "object": "model",
    "created": 1,
    "owned_by": "vllm",
    "root": "/adapters/law",
    "parent": MODEL,
}
