"""A lower bound of the output tokens of a response whose server does not report all of them.

It counts against the operator's limits only, so that a cancelled or failed job is not free.
"""

import re
from itertools import pairwise
from typing import Final

from provider_agent.adapters.requests.prompt_size import CHARS_PER_TOKEN
from provider_agent.protocol.formats import Operation

_DELTA: Final = {
    Operation.CHAT: re.compile(rb'"delta"'),
    Operation.COMPLETIONS: re.compile(rb'"text"'),
    Operation.MESSAGES: re.compile(rb'"content_block_delta"'),
    Operation.RESPONSES: re.compile(rb'\.delta"'),
}
"""What each delta of a stream contains once. No output contains it, because quotes in a JSON string
are escaped. A delta has at least one token."""

_WITHOUT_TOKEN: Final = {Operation.CHAT: 2, Operation.COMPLETIONS: 1}
"""Deltas of each choice without a token: those with the role and with the finish reason."""

_SEARCHED_BYTES: Final = 256 * 1024
"""How much of a JSON response is searched; this takes about 3 ms."""

_TEXT: Final = re.compile(
    rb'"(?:content|text|arguments|reasoning|reasoning_content|thinking)" ?: ?"((?:[^"\\]++|\\.)*+)"'
)


def least_tokens_in_stream(
    operation: Operation, head: bytes, bytes_before_tail: int, tail: bytes, choices: int
) -> int:
    """Return a lower bound of the output tokens of a stream.

    The bytes before the tail are counted as deltas of the third-quartile size in head and tail. A
    larger delta probably has several tokens.

    Args:
        operation: the operation of the response.
        head: the first bytes.
        bytes_before_tail: the number of all bytes before the tail, so it includes the head.
        tail: the last bytes.
        choices: the number of choices.
    """
    mark = _DELTA.get(operation)
    if mark is None:
        return 0
    starts = [[found.start() for found in mark.finditer(part)] for part in (head, tail)]
    sizes = sorted(after - start for part in starts for start, after in pairwise(part))
    deltas = len(starts[1])
    if sizes:
        deltas += bytes_before_tail // sizes[len(sizes) * 3 // 4]
    return max(deltas - choices * _WITHOUT_TOKEN.get(operation, 0), 0)


def least_tokens_in_body(body: bytes) -> int:
    """Return a lower bound of the output tokens of a JSON response, from its first bytes."""
    chars = sum(len(text) for text in _TEXT.findall(body[:_SEARCHED_BYTES]))
    return chars // CHARS_PER_TOKEN
