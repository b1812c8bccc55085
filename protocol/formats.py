"""Wire formats, their operations and the HTTP path of each operation.

A job names a wire format and an operation; an empty operation means the format's main one. Every
server that supports an operation serves it at the same path (OpenAI and Anthropic API
references), so the coordinator's HTTP API and the adapters share one table.
"""

from enum import StrEnum
from typing import Final


class WireFormat(StrEnum):
    """The API that a request and its response belong to."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class Operation(StrEnum):
    """One endpoint of a wire format. Names are unique across wire formats."""

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
        """The HTTP path of this operation below a server's base URL."""
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


_BY_NAMES: Final = {
    **{(one.wire_format.value, one.value): one for one in Operation},
    **{(wire_format.value, ""): one for wire_format, one in MAIN_OPERATION.items()},
}


def find_operation(wire_format: str, operation: str) -> Operation | None:
    """The operation that a job names; None when this version does not know the pair."""
    return _BY_NAMES.get((wire_format, operation))
