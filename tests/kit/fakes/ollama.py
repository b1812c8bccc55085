"""A fake Ollama, after its source and documentation (about 0.30).

In source: a foreign `Host` is a 403; `GET` to a route for `POST` is a 405 (a 404 in
old versions); an error
after the first token is dropped by the compatible routes, so that the stream just stops
(`Fault.STOP_AFTER_FIRST_CHUNK`); `message_start` has an estimate of the input, `message_delta`
the truth; errors are `{"error": text}` natively and have each format's own shape on its route.
Documented: `capabilities` and cloud stubs in `/api/tags`, `num_ctx` in `/api/show`, the allocated
window in `/api/ps`; any key is ignored.
"""

from typing import ClassVar

from provider_agent.protocol.formats import Operation
from tests.kit.fakes.frames import INPUT_TOKENS, OUTPUT_TOKENS
from tests.kit.fakes.good_answers import good_answer
from tests.kit.fakes.server import Answer, Exchange, FakeServer, json_answer

MODEL = "acme:8b"
PINNED = "acme-pinned:latest"
UNKNOWN = "acme-mini:latest"
EMBEDDER = "acme-embed:latest"
CLOUD = ("acme-big:480b-cloud", "acme-huge:latest")
WINDOW = 32768
PINNED_WINDOW = 16384


class FakeOllama(FakeServer):
    """See the module's text.

    Attributes:
        version: as it tells.
        old: a version whose tags have no capabilities, and whose routes do not know other methods.
        loaded: whether `MODEL` is in memory.
        names: the host names it answers to.
    """

    kind: ClassVar[str] = "ollama"
    all_routes = frozenset(Operation) - {Operation.COUNT_TOKENS}

    def __init__(self, *, api_key: str | None = None) -> None:
        super().__init__(api_key=api_key)
        self.version = "0.30.1"
        self.old = False
        self.loaded = True
        self.names = ["127.0.0.1", "localhost"]

    def is_open(self, path: str) -> bool:
        return True

    def answer(self, exchange: Exchange) -> Answer:
        if exchange.headers["host"].partition(":")[0] not in self.names:
            return Answer(status=403)
        match exchange.method, exchange.path:
            case "GET", "/api/version":
                return json_answer({"version": self.version})
            case "GET", "/api/tags":
                return json_answer({"models": self._tags()})
            case "POST", "/api/show":
                return self._show(exchange)
            case "GET", "/api/ps":
                loaded = [{"name": MODEL, "context_length": WINDOW}] if self.loaded else []
                return json_answer({"models": loaded})
        if exchange.operation in self.routes:
            if exchange.method == "POST":
                return self._missing(exchange) or self._infer(exchange)
            if not self.old:
                return Answer((b"405 method not allowed",), 405, "text/plain")
        return Answer((b"404 page not found",), 404, "text/plain")

    def error(self, status: int, message: str, exchange: Exchange) -> Answer:
        if exchange.path == "/v1/messages":
            fields: dict[str, object] = {"type": "api_error", "message": message}
            body = {"type": "error", "error": fields, "request_id": "req_1"}
            return json_answer(body, status)
        if exchange.path.startswith("/v1"):
            fields = {"message": message, "type": "api_error", "param": None, "code": None}
            return json_answer({"error": fields}, status)
        return json_answer({"error": message}, status)

    def _tags(self) -> list[dict[str, object]]:
        tags = []
        for name, capabilities in _CAPABILITIES.items():
            tag: dict[str, object] = {"name": name, "digest": f"sha-{name}", "size": 4_900_000_000}
            if not self.old:
                tag["capabilities"] = capabilities
            tags.append(tag)
        stub = {"remote_model": "acme-huge", "remote_host": "https://ollama.example"}
        return [*tags, {"name": CLOUD[1], **stub}, {"name": CLOUD[0]}]

    def _show(self, exchange: Exchange) -> Answer:
        name = str(exchange.json["model"])
        if name not in _CAPABILITIES:
            return self.error(404, "model not found", exchange)
        shown: dict[str, object] = {
            "capabilities": _CAPABILITIES[name],
            "model_info": {"acme.context_length": 131072},
        }
        if name == PINNED:
            shown["parameters"] = (
                f'stop     "<|end|>"\nnum_ctx                        {PINNED_WINDOW}'
            )
        return json_answer(shown)

    def _missing(self, exchange: Exchange) -> Answer | None:
        if exchange.json.get("model") in _CAPABILITIES:
            return None
        return self.error(404, "model 'x' not found, try pulling it first", exchange)

    def _infer(self, exchange: Exchange) -> Answer:
        estimate = {"input_tokens": 5, "output_tokens": 0}
        truth = {"input_tokens": INPUT_TOKENS, "output_tokens": OUTPUT_TOKENS}
        return good_answer(exchange, MODEL, start_usage=estimate, end_usage=truth)


_CAPABILITIES = {
    MODEL: ["completion", "tools"],
    PINNED: ["completion"],
    UNKNOWN: ["completion"],
    EMBEDDER: ["embedding"],
}
