"""Request policies: fields of a client's request that are not forwarded to a server.

Such a field spends the operator's money beyond the job, affects other requests on the server, or
selects another model than the advertised one. Each adapter defines its own policy
(`Backend.request_policy`; docs/adapters.md lists them). The operator chooses whether such a field
fails the job (`strict`), is removed (`strip`) or is forwarded (`pass`).

Names are compared case-insensitively, because servers written in Go (Ollama) match them that way.
"""

from typing import Final

import msgspec

from provider_agent.adapters.errors import BadRequest
from provider_agent.adapters.settings import PolicyMode


class RequestPolicy(msgspec.Struct, frozen=True):
    """The fields and tools that are not forwarded to one kind of server.

    Attributes:
        fields: names in the outermost object, in lower case.
        tool_types: prefixes of the `type` of tools that the server executes itself.
    """

    fields: frozenset[str] = frozenset()
    tool_types: tuple[str, ...] = ()


WEB_SEARCH_TOOLS: Final = ("web_search", "web_fetch")
"""Prefixes of the tool types that make a server search the web."""

# A decoder per type: `msgspec.json.decode` with `type` would build one for each tool.
_TOOLS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_TOOL: Final = msgspec.json.Decoder(dict[str, object])


def apply_policy(fields: dict[str, msgspec.Raw], policy: RequestPolicy, mode: PolicyMode) -> None:
    """Apply a policy to a request's fields.

    Args:
        fields: the outermost object of the request; changed in place.
        policy: the policy of the server's kind.
        mode: the operator's choice.

    Raises:
        BadRequest: `mode` is `strict` and the request has such a field or tool.
    """
    if mode is PolicyMode.PASS:
        return
    named = sorted(name for name in fields if name.casefold() in policy.fields)
    kept_tools = {
        name: kept
        for name, value in fields.items()
        if name.casefold() == "tools"
        and (kept := _forwarded_tools(value, policy.tool_types)) is not None
    }
    if mode is PolicyMode.STRICT and (named or kept_tools):
        rejected = ", ".join(named) if named else "tools that the server executes itself"
        raise BadRequest(f"this provider does not accept: {rejected}")
    for name in named:
        del fields[name]
    for name, kept in kept_tools.items():
        _set_tools(fields, name, kept)


def _forwarded_tools(tools: msgspec.Raw, forbidden: tuple[str, ...]) -> list[msgspec.Raw] | None:
    """Return the tools that are forwarded; None if all of them are."""
    if not forbidden:
        return None
    try:
        listed = _TOOLS.decode(tools)
    except ValueError:
        return None  # not a list: the server rejects it
    kept = [tool for tool in listed if not _has_type(tool, forbidden)]
    return kept if len(kept) < len(listed) else None


def _has_type(tool: msgspec.Raw, prefixes: tuple[str, ...]) -> bool:
    """Whether a tool's type starts with a prefix; False if malformed: the server rejects it."""
    try:
        fields = _TOOL.decode(tool)
    except ValueError:
        return False
    types = [value for name, value in fields.items() if name.casefold() == "type"]
    return any(isinstance(value, str) and value.startswith(prefixes) for value in types)


def _set_tools(fields: dict[str, msgspec.Raw], name: str, tools: list[msgspec.Raw]) -> None:
    """Replace the tools.

    If none is left, `tools` and `tool_choice` are removed: most servers reject an empty list, and a
    `tool_choice` without tools.
    """
    if tools:
        fields[name] = msgspec.Raw(msgspec.json.encode(tools))
        return
    del fields[name]
    for choice in [other for other in fields if other.casefold() == "tool_choice"]:
        del fields[choice]
