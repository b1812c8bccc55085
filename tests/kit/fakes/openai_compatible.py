"""A fake server of no known make: a bare OpenAI model list, every operation."""

from typing import ClassVar

from tests.kit.fakes.good_responses import good_response
from tests.kit.fakes.server import FakeResponse, FakeServer, RecordedRequest, json_response

MODEL = "acme-8b"
WINDOW = 4096


class FakeOpenAICompatible(FakeServer):
    """See the module's text."""

    kind: ClassVar[str] = "openai_compatible"

    def respond(self, request: RecordedRequest) -> FakeResponse:
        if (request.method, request.path) == ("GET", "/v1/models"):
            known = {"id": MODEL, "object": "model", "context_length": WINDOW}
            return json_response({"object": "list", "data": [known, {"id": "acme-bare"}]})
        if request.method == "POST" and request.operation in self.routes:
            return self._job(request)
        return self.error_response(404, "no such route", request)

    def error_response(self, status: int, message: str, request: RecordedRequest) -> FakeResponse:
        return json_response({"error": {"message": message, "code": status}}, status)

    def _job(self, request: RecordedRequest) -> FakeResponse:
        if not request.is_job:
            return self.error_response(422, "a field is missing", request)
        if request.json.get("model") != MODEL:
            return self.error_response(404, "model not found", request)
        return good_response(request, MODEL)
