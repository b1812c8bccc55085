"""Which headers of a server's response reach the client.

Both sides apply the same list: the agent, so that it does not reveal the operator's account; the
coordinator, so that an agent cannot send other headers to a client.
"""

import re
from collections.abc import Iterable
from typing import Final

from provider_agent.protocol.frames import ResponseHeader
from provider_agent.protocol.limits import MAX_NAME_CHARS, MAX_RESPONSE_HEADERS

CLIENT_HEADERS: Final = frozenset(
    {
        "openai-model",
        "openai-processing-ms",
        "openai-version",
        "request-id",
        "retry-after",
        "x-generation-id",
        "x-request-id",
    }
)
"""The headers that a client can use: the server's id of the request (`x-request-id`, Anthropic's
`request-id`, OpenRouter's `x-generation-id`), its model, API version and processing time, and when
to retry.

All others but `Content-Type` stay with the agent, above all those about the operator's account at a
passthrough: rate limits (`x-ratelimit-*`, `anthropic-ratelimit-*`) show how much other clients use
the same key, and would make a client slow down for a limit that is not its own; balances
(`x-venice-balance-*`) and organizations (`openai-organization`, `anthropic-organization-id`) are
private. Cookies belong to the agent's connection, and `cf-ray` names a city near the agent."""

MAX_VALUE_CHARS: Final = 256
"""Ids have up to about 100 characters. A longer value is left out, because a part of an id is
useless."""

_CONTENT_TYPE: Final = re.compile(rf"[\x20-\x7e]{{1,{MAX_NAME_CHARS}}}")
_VALUE: Final = re.compile(rf"[\x20-\x7e]{{1,{MAX_VALUE_CHARS}}}")


def valid_content_type(value: str) -> str:
    """Return `value`, or `application/octet-stream` if it is no valid header value."""
    return value if _CONTENT_TYPE.fullmatch(value) else "application/octet-stream"


def client_headers(headers: Iterable[tuple[str, str]]) -> list[ResponseHeader]:
    """Return the headers that the client receives, with names in lower case.

    A value with characters other than printable ASCII is left out: HTTP cannot carry all of them.

    Args:
        headers: name and value of each header; of a repeated name the first valid value is used.
    """
    chosen: dict[str, str] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in CLIENT_HEADERS and _VALUE.fullmatch(value):
            chosen.setdefault(lower, value)
    pairs = sorted(chosen.items())[:MAX_RESPONSE_HEADERS]
    return [ResponseHeader(name, value) for name, value in pairs]
