"""A fake OpenAI-compatible server of no known product: a minimal model list, every operation."""

from typing import ClassVar

from tests.kit.fakes.good_responses import good_response
from tests.kit.fakes.server import FakeResponse, FakeServer, RecordedRequest, json_response

MODEL = "acme-8b"
CONTEXT_WINDOW = 4096


class FakeOpenAICompatible(FakeServer):
    """A fake OpenAI-compatible server."""

    kind: ClassVar[str] = "openai_compatible"

    def respond(self, request: RecordedRequest) -> FakeResponse:
        if (request.method, request.path) == ("GET", "/v1/models"):
            model = {"id": MODEL, "object": "model", "context_length": CONTEXT_WINDOW}
            return json_response({"object": "list", "data": [model, {"id": "acme-bare"}]})
        if request.method == "POST" and request.operation in self.routes:
            return self._infer(request)
        return self.error_response(404, "no such route", request)

    def error_response(self, status: int, message: str, request: RecordedRequest) -> FakeResponse:
        return json_response({"error": {"message": message, "code": status}}, status)

    def _infer(self, request: RecordedRequest) -> FakeResponse:
        if not request.is_job:
            return self.error_response(422, "a field is missing", request)
        if request.json.get("model") != MODEL:
            return self.error_response(404, "model not found", request)
        return good_response(request, MODEL)


class FakeOpenAIPassthrough(FakeOpenAICompatible):
    """The same server, as the remote service of a passthrough."""

    kind: ClassVar[str] = "openai_passthrough"
