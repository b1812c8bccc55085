"""The Ollama of the README: one model, on Ollama's own port."""

from dataclasses import replace
from typing import Final, Self

from tests.kit.fakes.frames import WORDS
from tests.kit.fakes.ollama import MODEL, FakeOllama
from tests.kit.fakes.server import FakeResponse, RecordedRequest, json_response

PORT: Final = 11434
README_MODEL: Final = "llama3.1:8b"
ANSWER: Final = "Hello! How can I help you today?"


class ReadmeOllama(FakeOllama):
    """A fake Ollama whose only model is that of the README."""

    async def __aenter__(self) -> Self:
        self.port = PORT
        return await super().__aenter__()

    def respond(self, request: RecordedRequest) -> FakeResponse:
        if request.path == "/api/tags":
            tag = {"name": README_MODEL, "digest": "sha-1", "size": 4_900_000_000}
            return json_response({"models": [{**tag, "capabilities": ["completion", "tools"]}]})
        request.body = request.body.replace(README_MODEL.encode(), MODEL.encode())
        response = super().respond(request)
        chunks = (
            chunk.replace(MODEL.encode(), README_MODEL.encode()).replace(
                "".join(WORDS).encode(), ANSWER.encode()
            )
            for chunk in response.chunks
        )
        return replace(response, chunks=tuple(chunks))
