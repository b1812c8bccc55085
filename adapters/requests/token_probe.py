"""The smallest request of each operation: it generates one token, to test whether a model works."""

from collections.abc import Collection
from typing import Final

from provider_agent.adapters.requests.output_limit import one_token
from provider_agent.protocol.formats import Operation

_WORD: Final = [{"role": "user", "content": "x"}]

_SMALLEST: Final[dict[Operation, dict[str, object]]] = {
    Operation.CHAT: {"messages": _WORD},
    Operation.MESSAGES: {"messages": _WORD},
    Operation.COMPLETIONS: {"prompt": "x"},
    Operation.RESPONSES: {"input": "x"},
    Operation.EMBEDDINGS: {"input": "x"},
}


def token_probe(
    operations: Collection[Operation], upstream_id: str
) -> tuple[Operation, dict[str, object]] | None:
    """Return an operation of a model and its smallest request; None if no operation has one.

    Args:
        operations: the operations that the model supports.
        upstream_id: the server's id of the model.
    """
    for operation, fields in _SMALLEST.items():
        if operation in operations:
            return operation, {"model": upstream_id, **fields, **one_token(operation)}
    return None
