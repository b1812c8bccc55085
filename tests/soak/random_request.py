"""A random request, and its expected response: a pure function of the request."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

import msgspec

from provider_agent.adapters.servers.echo import MODEL_ID as ECHO_MODEL
from provider_agent.protocol.formats import Operation

SOAK_MODEL = "soak"
_WORDS = ("alpha", "βήτα", "gamma", "дельта", "epsilon", "ζ", "\\n\\t", "🌊", '"quoted"')

Shape = tuple[int, int, int]
"""The number of pieces, the length of each in characters, and the pause between two in ms."""

SHAPES: Final[tuple[Shape, ...]] = (
    (20, 40, 5),
    (60, 80, 20),
    (200, 60, 10),
    (40, 4000, 10),
    (150, 8000, 1),
    (3, 20, 500),
)
"""Responses that are small or large, fast or slow."""


@dataclass(frozen=True)
class RandomRequest:
    """One request of a client.

    Attributes:
        name: a unique name.
        model: the model, which selects the backend.
        operation: the operation, which selects the wire format.
        streamed: whether the response is a stream; otherwise it is one JSON document.
        pieces: the number of pieces of text.
        size: the length of each piece, in characters.
        pace_ms: the pause between two pieces.
    """

    name: str
    model: str
    operation: Operation
    streamed: bool
    pieces: int
    size: int
    pace_ms: int

    @classmethod
    def random(cls, name: str, rng: random.Random, shapes: Sequence[Shape] = SHAPES) -> Self:
        """Return a random request, for a response of one of the shapes."""
        pieces, size, pace_ms = rng.choice(shapes)
        return cls(
            name=name,
            model=rng.choices([SOAK_MODEL, ECHO_MODEL], [5, 1])[0],
            operation=rng.choice([Operation.CHAT, Operation.MESSAGES]),
            streamed=rng.random() < 0.8,
            pieces=pieces,
            size=size,
            pace_ms=pace_ms,
        )

    def body(self) -> bytes:
        """Return the body of the HTTP request."""
        text = f"{self.name} {self.pieces} {self.size} {self.pace_ms}"
        if self.model == ECHO_MODEL:
            text = f"{text} {' '.join(self._texts())}"
        request: dict[str, object] = {
            "model": self.model,
            "stream": self.streamed,
            "messages": [{"role": "user", "content": text}],
        }
        if self.operation is Operation.MESSAGES:
            request["max_tokens"] = 1_000_000
        return msgspec.json.encode(request)

    @classmethod
    def parse(cls, operation: Operation, body: bytes) -> Self | None:
        """Parse a request body at the server; None for a probe: of a route, or for one token."""
        request = msgspec.json.decode(body, type=dict[str, object])
        messages = request.get("messages")
        if not isinstance(messages, list) or not messages:
            return None
        words = str(messages[0]["content"]).split()
        if len(words) != 4:
            return None
        name, pieces, size, pace_ms = words
        streamed = request.get("stream") is True
        return cls(name, SOAK_MODEL, operation, streamed, int(pieces), int(size), int(pace_ms))

    def response(self) -> Iterator[bytes]:
        """Return the response: the events of a stream one by one, or one JSON document."""
        if self.operation is Operation.MESSAGES:
            return self._messages() if self.streamed else iter((self._message(),))
        return self._chunks() if self.streamed else iter((self._completion(),))

    def _texts(self) -> list[str]:
        return [f"{self.name}/{n}/{_WORDS[n % len(_WORDS)]}" for n in range(self.pieces)]

    def _padded_texts(self) -> Iterator[str]:
        return (text + "x" * (self.size - len(text)) for text in self._texts())

    # --- OpenAI ----------------------------------------------------------------------------------

    def _chunks(self) -> Iterator[bytes]:
        for text in self._padded_texts():
            yield _event(self._chunk({"content": text}, None))
        yield _event(self._chunk({}, "stop"))
        yield b"data: [DONE]\n\n"

    def _chunk(self, delta: object, finish: str | None) -> object:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return {"id": self.name, "object": "chat.completion.chunk", "choices": [choice]}

    def _completion(self) -> bytes:
        message = {"role": "assistant", "content": " ".join(self._padded_texts())}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return msgspec.json.encode(
            {"id": self.name, "object": "chat.completion", "choices": [choice]}
        )

    # --- Anthropic -------------------------------------------------------------------------------

    def _messages(self) -> Iterator[bytes]:
        yield _named_event("message_start", message=self._message_object([], None))
        block = {"type": "text", "text": ""}
        yield _named_event("content_block_start", index=0, content_block=block)
        for text in self._padded_texts():
            delta = {"type": "text_delta", "text": text}
            yield _named_event("content_block_delta", index=0, delta=delta)
        yield _named_event("content_block_stop", index=0)
        delta = {"stop_reason": "end_turn"}
        yield _named_event("message_delta", delta=delta, usage={"output_tokens": self.pieces})
        yield _named_event("message_stop")

    def _message(self) -> bytes:
        content = [{"type": "text", "text": " ".join(self._padded_texts())}]
        return msgspec.json.encode(self._message_object(content, "end_turn"))

    def _message_object(self, content: list[dict[str, str]], stop_reason: str | None) -> object:
        return {
            "id": self.name,
            "type": "message",
            "role": "assistant",
            "model": SOAK_MODEL,
            "content": content,
            "stop_reason": stop_reason,
            "usage": {"input_tokens": 4, "output_tokens": self.pieces},
        }


def _event(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def _named_event(name: str, **fields: object) -> bytes:
    return f"event: {name}\n".encode() + _event({"type": name, **fields})
