"""The limit of a request's output tokens.

The operator can limit the output of all jobs of a backend (`max_output_tokens`). A kind can have a
limit of its own: Ollama ignores `max_completion_tokens`, takes a negative or missing `max_tokens`
for no limit, and then never ends the output of a model that does not stop by itself.
"""

from typing import Final

import msgspec

from provider_agent.protocol.formats import Operation

_NAMES: Final = {
    Operation.CHAT: ("max_tokens", "max_completion_tokens", "n_predict"),
    Operation.COMPLETIONS: ("max_tokens", "n_predict"),
    Operation.RESPONSES: ("max_output_tokens", "n_predict"),
    Operation.MESSAGES: ("max_tokens", "n_predict"),
}
"""The names of the limit. The first is the one that every server knows; `n_predict` is llama.cpp's.
"""

_NUMBER: Final = msgspec.json.Decoder(float | int)


def one_token(operation: Operation) -> dict[str, object]:
    """Return the field that limits the output to one token; {} if the operation generates none."""
    return {_NAMES[operation][0]: 1} if operation in _NAMES else {}


def limit_output(
    fields: dict[str, object], operation: Operation, most: int | None, *, one_name: bool
) -> None:
    """Set the limit of output tokens to the smallest of the client's limits and `most`.

    Args:
        fields: the fields of the request; changed in place.
        operation: the operation of the request.
        most: the limit; None leaves the request as it is.
        one_name: whether the server knows only the first name of `_NAMES`.
    """
    names = _NAMES.get(operation)
    if most is None or names is None:
        return
    limits = {name: limit for name in names if (limit := _limit(fields.get(name))) is not None}
    kept = next(iter(limits), names[0]) if not one_name else names[0]
    for name in names:
        fields.pop(name, None)
    fields[kept] = min([most, *limits.values()])


def _limit(value: object) -> int | None:
    """Return the client's limit if it is at least one token.

    None for a value that is absent, invalid, or that servers take for no limit.
    """
    try:
        number = _NUMBER.decode(value) if isinstance(value, msgspec.Raw) else 0
    except ValueError:
        return None
    return int(number) if number >= 1 else None
