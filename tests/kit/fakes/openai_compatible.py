"""A fake server of no known make: a bare OpenAI model list, every operation."""

from typing import ClassVar

from tests.kit.fakes.good_answers import good_answer
from tests.kit.fakes.server import Answer, Exchange, FakeServer, json_answer

MODEL = "acme-8b"
WINDOW = 4096


class FakeOpenAICompatible(FakeServer):
    """See the module's text."""

    kind: ClassVar[str] = "openai_compatible"

    def answer(self, exchange: Exchange) -> Answer:
        if (exchange.method, exchange.path) == ("GET", "/v1/models"):
            known = {"id": MODEL, "object": "model", "context_length": WINDOW}
            return json_answer({"object": "list", "data": [known, {"id": "acme-bare"}]})
        if exchange.method == "POST" and exchange.operation in self.routes:
            return self._job(exchange)
        return self.error(404, "no such route", exchange)

    def error(self, status: int, message: str, exchange: Exchange) -> Answer:
        return json_answer({"error": {"message": message, "code": status}}, status)

    def _job(self, exchange: Exchange) -> Answer:
        if not exchange.is_job:
            return self.error(422, "a field is missing", exchange)
        if exchange.json.get("model") != MODEL:
            return self.error(404, "model not found", exchange)
        return good_answer(exchange, MODEL)
