"""What of a client's request does not go to a server.

Some fields spend the operator's money beyond the job, change the server for others, or leave the
advertised model. A pure table per kind (`docs/adapters.md` shows it). The operator chooses what
happens to such a field: refuse the job (`strict`), remove it (`strip`), or let it through (`pass`).

Names are compared without regard to case, because servers written in Go (Ollama) read them so.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from provider_agent.adapters.base import BadRequest, PolicyMode


class RequestPolicy(msgspec.Struct, frozen=True):
    """The fields of one kind of server.

    Attributes:
        fields: names in the outermost object.
        tool_types: beginnings of the `type` of tools that the server runs itself.
    """

    fields: frozenset[str] = frozenset()
    tool_types: tuple[str, ...] = ()


_WEB_SEARCH: Final = ("web_search", "web_fetch")

POLICIES: Final[Mapping[str, RequestPolicy]] = {
    # Other models, other providers, paid plugins and searches (openrouter.ai/docs, API reference).
    "openrouter": RequestPolicy(
        frozenset(
            {"models", "provider", "plugins", "route", "preset", "transforms", "web_search_options"}
        ),
        ("openrouter:", *_WEB_SEARCH),
    ),
    # Web search, characters, prompts of Venice's own (api.venice.ai, OpenAPI of August 2026).
    "venice": RequestPolicy(frozenset({"venice_parameters", "web_search_options"}), _WEB_SEARCH),
    # Overtaking others, and the cache of another request.
    "vllm": RequestPolicy(frozenset({"priority", "kv_transfer_params", "request_id"})),
    # A slot of somebody else, or other weights than the advertised ones.
    "llamacpp": RequestPolicy(frozenset({"id_slot", "slot_id", "lora", "n_cache_reuse"})),
    # How long the operator's memory is held, a second model beside the advertised one, and tool
    # servers that the operator's machine would call.
    "lmstudio": RequestPolicy(frozenset({"ttl", "draft_model", "integrations"}), ("mcp",)),
    # The local daemon searches the web with the operator's account.
    "ollama": RequestPolicy(frozenset({"keep_alive"}), _WEB_SEARCH),
}


def apply_policy(fields: dict[str, msgspec.Raw], policy: RequestPolicy, mode: PolicyMode) -> None:
    """Take what the policy names out of a request's fields.

    Args:
        fields: of the outermost object; changed in place.
        policy: of the server's kind.
        mode: what the operator wants.

    Raises:
        BadRequest: `strict`, and the request has such a field or tool.
    """
    if mode is PolicyMode.PASS:
        return
    named = sorted(name for name in fields if name.casefold() in policy.fields)
    kept_tools = {
        name: kept
        for name, value in fields.items()
        if name.casefold() == "tools" and (kept := _allowed(value, policy.tool_types)) is not None
    }
    if mode is PolicyMode.STRICT and (named or kept_tools):
        what = ", ".join(named) if named else "a tool that the server would run itself"
        raise BadRequest(f"this provider does not take: {what}")
    for name in named:
        del fields[name]
    for name, kept in kept_tools.items():
        _set_tools(fields, name, kept)


def _allowed(tools: msgspec.Raw, forbidden: tuple[str, ...]) -> list[msgspec.Raw] | None:
    """The tools that may stay; None when all of them may."""
    if not forbidden:
        return None
    try:
        listed = msgspec.json.decode(tools, type=list[msgspec.Raw])
    except ValueError:
        return None  # no list: the server's to refuse
    kept = [tool for tool in listed if not _is_of(tool, forbidden)]
    return kept if len(kept) < len(listed) else None


def _is_of(tool: msgspec.Raw, kinds: tuple[str, ...]) -> bool:
    """Whether a tool's type begins with one of these; what is no tool is the server's to refuse."""
    try:
        fields = msgspec.json.decode(tool, type=dict[str, object])
    except ValueError:
        return False
    types = [value for name, value in fields.items() if name.casefold() == "type"]
    return any(isinstance(kind, str) and kind.startswith(kinds) for kind in types)


def _set_tools(fields: dict[str, msgspec.Raw], name: str, tools: list[msgspec.Raw]) -> None:
    """An empty list of tools, or a choice among none, is an error at most servers."""
    if tools:
        fields[name] = msgspec.Raw(msgspec.json.encode(tools))
        return
    del fields[name]
    for choice in [other for other in fields if other.casefold() == "tool_choice"]:
        del fields[choice]
