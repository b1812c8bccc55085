"""What of a buyer's request does not go to a server.

Some fields spend the operator's money beyond the job, change the server for others, or leave the
advertised model. A pure table per kind (`docs/adapters.md` shows it). The operator chooses what
happens to such a field: refuse the job (`strict`), remove it (`strip`), or let it through (`pass`).
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from adapters.base import BadRequest, PolicyMode


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
    # How long the operator's memory is held, and a second model beside the advertised one.
    "lmstudio": RequestPolicy(frozenset({"ttl", "draft_model", "integrations"})),
    # The local daemon searches the web with the operator's account.
    "ollama": RequestPolicy(frozenset({"keep_alive"}), _WEB_SEARCH),
}


class _Tool(msgspec.Struct):
    type: str = ""


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
    named = sorted(policy.fields & fields.keys())
    kept_tools = _allowed_tools(fields, policy.tool_types)
    if mode is PolicyMode.STRICT and (named or kept_tools is not None):
        what = ", ".join(named) if named else "a tool that the server would run itself"
        raise BadRequest(f"this provider does not take: {what}")
    for name in named:
        del fields[name]
    if kept_tools is not None:
        _set_tools(fields, kept_tools)


def _allowed_tools(
    fields: Mapping[str, msgspec.Raw], forbidden: tuple[str, ...]
) -> list[msgspec.Raw] | None:
    """The tools that may stay; None when all of them may."""
    if not forbidden or "tools" not in fields:
        return None
    try:
        tools = msgspec.json.decode(fields["tools"], type=list[msgspec.Raw])
        types = [msgspec.json.decode(tool, type=_Tool).type for tool in tools]
    except (ValueError, RecursionError):
        return None  # not a list of tools: the server's to refuse
    kept = [tool for tool, kind in zip(tools, types, strict=True) if not kind.startswith(forbidden)]
    return kept if len(kept) < len(tools) else None


def _set_tools(fields: dict[str, msgspec.Raw], tools: list[msgspec.Raw]) -> None:
    """An empty list of tools, or a choice among none, is an error at most servers."""
    if tools:
        fields["tools"] = msgspec.Raw(msgspec.json.encode(tools))
        return
    del fields["tools"]
    fields.pop("tool_choice", None)
