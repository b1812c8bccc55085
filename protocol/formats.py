"""Wire formats and the operations each of them has.

A job names a wire format and an operation; an empty operation is the format's main one. The HTTP
path of an operation is the same at every server that speaks it natively (OpenAI and Anthropic API
references), so one table serves the coordinator's front and the adapters' back.
"""

from enum import StrEnum
from typing import Final


class WireFormat(StrEnum):
    """The shape of a request and of its response."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class Operation(StrEnum):
    """What a job asks of a server. Names are unique across wire formats."""

    CHAT = "chat"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"
    MESSAGES = "messages"
    COUNT_TOKENS = "count_tokens"

    @property
    def wire_format(self) -> WireFormat:
        """The wire format this operation belongs to."""
        return _FORMAT[self]

    @property
    def path(self) -> str:
        """Where every native server answers it, below the server's base address."""
        return _PATH[self]


_FORMAT: Final = {
    Operation.CHAT: WireFormat.OPENAI,
    Operation.COMPLETIONS: WireFormat.OPENAI,
    Operation.EMBEDDINGS: WireFormat.OPENAI,
    Operation.RESPONSES: WireFormat.OPENAI,
    Operation.MESSAGES: WireFormat.ANTHROPIC,
    Operation.COUNT_TOKENS: WireFormat.ANTHROPIC,
}

_PATH: Final = {
    Operation.CHAT: "/v1/chat/completions",
    Operation.COMPLETIONS: "/v1/completions",
    Operation.EMBEDDINGS: "/v1/embeddings",
    Operation.RESPONSES: "/v1/responses",
    Operation.MESSAGES: "/v1/messages",
    Operation.COUNT_TOKENS: "/v1/messages/count_tokens",
}

MAIN_OPERATION: Final = {
    WireFormat.OPENAI: Operation.CHAT,
    WireFormat.ANTHROPIC: Operation.MESSAGES,
}


def find_operation(wire_format: str, operation: str) -> Operation | None:
    """The operation that a job's two fields name; None when this version does not know the pair."""
    try:
        known_format = WireFormat(wire_format)
        found = Operation(operation) if operation else MAIN_OPERATION[known_format]
    except ValueError:
        return None
    return found if found.wire_format is known_format else None
