"""A fake Ollama server, based on its source and documentation (about 0.30).

From the source:

- An unknown `Host` is a 403. `GET` to a route for `POST` is a 405 (a 404 in old versions).
- An error after the first token is not sent on routes below `/v1`: the stream only ends early
  (`Fault.STOP_AFTER_FIRST_CHUNK`).
- `message_start` contains an estimate of the input tokens, `message_delta` the final number.
- Errors are `{"error": text}` on native routes. On routes below `/v1`, they have the shape of the
  wire format.
- Some invalid requests are a 500 (`invalid_requests`; reported by users).

Recorded from 0.17:

- If usage is requested, every chunk of completions but the last one reports zeros.
- `acme-pinned` and `acme-pinned:latest` are the same model; the lists contain only the latter.

Documented:

- `capabilities` and cloud models in `/api/tags`, `num_ctx` in `/api/show`, and the allocated
  context window in `/api/ps`.
- API keys are ignored.
"""

import json
from typing import ClassVar

from provider_agent.protocol.formats import Operation
from tests.kit.fakes.frames import INPUT_TOKENS, OUTPUT_TOKENS, sse
from tests.kit.fakes.good_responses import good_response
from tests.kit.fakes.server import (
    FakeResponse,
    FakeServer,
    RecordedRequest,
    json_response,
    stream_response,
)

MODEL = "acme:8b"
PINNED = "acme-pinned:latest"
UNKNOWN = "acme-mini:latest"
"""A model whose context window is unknown: it has no `num_ctx` and is not in memory."""

EMBEDDER = "acme-embed:latest"
CLOUD = ("acme-big:480b-cloud", "acme-huge:latest")
CONTEXT_WINDOW = 32768
PINNED_CONTEXT_WINDOW = 16384


def read_as_go(body: bytes) -> dict[str, object]:
    """Return the outermost fields as Ollama reads them.

    Go's `encoding/json` matches names with Unicode case folding, and the last one wins (recorded
    from 0.17: `"Messages"` and `"Max_Tokens"` take effect).
    """
    pairs = json.loads(body, object_pairs_hook=lambda found: found)
    return {name.casefold(): value for name, value in pairs}


class FakeOllama(FakeServer):
    """A fake Ollama server.

    Attributes:
        version: the version at `/api/version`.
        old: whether the server acts as an old version: the models in `/api/tags` have no
            capabilities, and routes answer 404 instead of 405 to a wrong method.
        loaded: whether `MODEL` is in memory.
        names: the `Host` names that the server accepts.
    """

    kind: ClassVar[str] = "ollama"
    all_routes = frozenset(Operation) - {Operation.COUNT_TOKENS}

    def __init__(self, *, api_key: str | None = None) -> None:
        super().__init__(api_key=api_key)
        self.version = "0.30.1"
        self.old = False
        self.loaded = True
        self.names = ["127.0.0.1", "localhost"]

    def is_public(self, path: str) -> bool:
        return True

    def respond(self, request: RecordedRequest) -> FakeResponse:
        if request.headers["host"].partition(":")[0] not in self.names:
            return FakeResponse(status=403)
        match request.method, request.path:
            case "GET", "/api/version":
                return json_response({"version": self.version})
            case "GET", "/api/tags":
                return json_response({"models": self._tags()})
            case "POST", "/api/show":
                return self._show(request)
            case "GET", "/api/ps":
                loaded = [{"name": MODEL, "context_length": CONTEXT_WINDOW}] if self.loaded else []
                return json_response({"models": loaded})
        if request.operation in self.routes:
            if request.method == "POST":
                return self._model_not_found(request) or self._infer(request)
            if not self.old:
                return FakeResponse((b"405 method not allowed",), 405, "text/plain")
        return FakeResponse((b"404 page not found",), 404, "text/plain")

    @staticmethod
    def invalid_requests() -> list[FakeResponse]:
        """Responses to invalid requests that have status 500."""
        return [
            json_response(
                {"error": {"message": text, "type": "api_error", "param": None, "code": None}}, 500
            )
            for text in (
                "invalid JSON schema in format",
                (
                    "json: cannot unmarshal array into Go struct field .tools.function.parameters."
                    "properties.type of type string"
                ),
            )
        ]

    @staticmethod
    def interrupted_completions() -> FakeResponse:
        """The first chunks of a stream of completions, which report zeros."""
        usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
        choice = {"text": " sea", "index": 0, "finish_reason": None}
        return stream_response([sse({"choices": [choice], "usage": usage})] * 100)

    def error_response(self, status: int, message: str, request: RecordedRequest) -> FakeResponse:
        if request.path == "/v1/messages":
            fields: dict[str, object] = {"type": "api_error", "message": message}
            body = {"type": "error", "error": fields, "request_id": "req_1"}
            return json_response(body, status)
        if request.path.startswith("/v1"):
            fields = {"message": message, "type": "api_error", "param": None, "code": None}
            return json_response({"error": fields}, status)
        return json_response({"error": message}, status)

    def _tags(self) -> list[dict[str, object]]:
        tags = []
        for name, capabilities in _CAPABILITIES.items():
            tag: dict[str, object] = {"name": name, "digest": f"sha-{name}", "size": 4_900_000_000}
            if not self.old:
                tag["capabilities"] = capabilities
            tags.append(tag)
        stub = {"remote_model": "acme-huge", "remote_host": "https://ollama.example"}
        return [*tags, {"name": CLOUD[1], **stub}, {"name": CLOUD[0]}]

    def _show(self, request: RecordedRequest) -> FakeResponse:
        name = str(request.json["model"])
        if name not in _CAPABILITIES:
            return self.error_response(404, "model not found", request)
        details: dict[str, object] = {
            "capabilities": _CAPABILITIES[name],
            "model_info": {"acme.context_length": 131072},
        }
        if name == PINNED:
            details["parameters"] = (
                f'stop     "<|end|>"\nnum_ctx                        {PINNED_CONTEXT_WINDOW}'
            )
        return json_response(details)

    def _model_not_found(self, request: RecordedRequest) -> FakeResponse | None:
        name = request.json.get("model")
        if name in _CAPABILITIES or f"{name}:latest" in _CAPABILITIES:
            return None
        return self.error_response(404, "model 'x' not found, try pulling it first", request)

    def _infer(self, request: RecordedRequest) -> FakeResponse:
        estimate = {"input_tokens": 5, "output_tokens": 0}
        final_usage = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
        return good_response(request, MODEL, start_usage=estimate, end_usage=final_usage)


_CAPABILITIES = {
    MODEL: ["completion", "tools"],
    PINNED: ["completion", "vision", "thinking"],
    UNKNOWN: ["completion"],
    EMBEDDER: ["embedding"],
}
