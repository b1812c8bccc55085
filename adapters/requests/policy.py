"""Request policies: which fields of a client's request are sent to a server.

A policy is an allow-list of fields for each operation, with rules for their values. Each kind of
backend has one (`Backend.request_policy`; docs/servers/request-policy.md lists them). A field or
tool that is not in the list could spend the operator's money beyond the job, reach internals of the
server or select another model. The operator chooses whether it is removed (`strip`), fails the job
(`refuse`) or is sent (`pass`), and can extend and shorten the list.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from msgspec import Raw, Struct
from msgspec.structs import replace

from provider_agent.adapters.errors import RefusedRequest
from provider_agent.adapters.requests.bounds import STREAM
from provider_agent.adapters.requests.fields import (
    MEANINGFUL,
    NATIVE,
    STANDARD,
    FieldTable,
)
from provider_agent.adapters.requests.parse_stacks import MAX_STACKS, StackBudget
from provider_agent.adapters.requests.rules import Fields, Review, Rule, check_fields
from provider_agent.adapters.settings import BackendSettings, MediaUrls, PolicyMode
from provider_agent.protocol.formats import Operation


class RequestPolicy(Struct, frozen=True):
    """The fields that are sent to one kind of server.

    Attributes:
        fields: for each operation, the rule of each field; None sends any value.
        media_urls: which URLs messages may contain, unless the operator sets it.
        without: dotted names of fields and types that are not sent although `fields` has them.
        bounds_stacks: whether grammars are refused if they could make the server keep too many
            parse stacks (`parse_stacks.py`).
    """

    fields: FieldTable
    media_urls: MediaUrls = MediaUrls.DATA
    without: frozenset[str] = frozenset()
    bounds_stacks: bool = True

    def allowing(
        self,
        names: Iterable[str] | Mapping[str, Rule | None],
        operations: Iterable[Operation] = Operation,
    ) -> "RequestPolicy":
        """Return a policy with further fields in these operations.

        Args:
            names: the fields; of a mapping, the values are their rules.
            operations: the operations that get the fields.
        """
        added = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names)
        return self.extended(dict.fromkeys(operations, added))

    def extended(self, table: FieldTable) -> "RequestPolicy":
        """Return a policy with the further fields of a table."""
        merged = {
            operation: {**self.fields.get(operation, {}), **table.get(operation, {})}
            for operation in Operation
        }
        return replace(self, fields=merged)


NATIVE_POLICY: Final = RequestPolicy(STANDARD).extended(NATIVE)
"""For servers on the operator's machines: the standard fields, and those of native servers."""

PASSTHROUGH_POLICY: Final = RequestPolicy(STANDARD, MediaUrls.ANY, bounds_stacks=False)
"""For remote services: only the standard fields."""


_ALWAYS_CHECKED: Final = frozenset({"model", "stream"})
"""Fields that the agent depends on."""


def default_policy(*, native: bool) -> RequestPolicy:
    """Return the policy of a kind that defines none."""
    return NATIVE_POLICY if native else PASSTHROUGH_POLICY


def apply_policy(
    found: Mapping[str, Raw],
    operation: Operation,
    policy: RequestPolicy,
    settings: BackendSettings,
    *,
    request_bytes: int,
) -> tuple[dict[str, object], list[str]]:
    """Return the fields of a request that are sent, with their checked values.

    The second result is the dotted names of what was removed.

    Args:
        found: the outermost object of the request.
        operation: the operation of the request.
        policy: the policy of the server's kind.
        settings: the operator's choices.
        request_bytes: the size of the request, which bounds the analysis of its grammars.

    Raises:
        BadRequest: a value is out of bounds, a field cannot be removed without changing what the
            client asked for, or the operator refuses what would be removed.
        ValueError: a nested value is not valid JSON.
    """
    fields = policy.fields.get(operation, {})
    if settings.request_policy is PolicyMode.PASS:
        return _all_but_other_spellings(found, fields, settings.strip_fields), []
    passed, stripped = _names(policy.without, settings.strip_fields, settings.pass_fields)
    review = Review(
        (settings.media_urls or policy.media_urls).schemes,
        passed=passed,
        stripped=stripped,
        refused=MEANINGFUL,
        stack_budget=StackBudget(request_bytes) if policy.bounds_stacks else None,
    )
    sent = check_fields(found, fields, "", review)
    if review.stack_budget and review.stack_budget.is_exceeded:
        raise RefusedRequest(
            f"the tools and schemas together have over {MAX_STACKS} optional parts"
        )
    if review.removed and settings.request_policy is PolicyMode.REFUSE:
        problem, names = "this provider does not accept:", ", ".join(sorted(review.removed))
        listed = _listed(review, policy)
        raise RefusedRequest(f"{problem} {names}", f"{problem} {listed}")
    if sent.get("tools") == []:
        # Most servers reject an empty list, and a `tool_choice` without tools.
        del sent["tools"]
        sent.pop("tool_choice", None)
    return sent, list(review.removed)


@lru_cache(maxsize=64)  # a few backends
def _names(
    without: frozenset[str], strip_fields: tuple[str, ...], pass_fields: tuple[str, ...]
) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names that are passed unchecked, and those that are not sent."""
    passed = frozenset(pass_fields)
    return passed - _ALWAYS_CHECKED, without.union(strip_fields) - passed


def _listed(review: Review, policy: RequestPolicy) -> str:
    """Return what was removed for the log, without names that the client has chosen."""
    known = review.stripped.union(MEANINGFUL, *policy.fields.values())
    names = [name for name in sorted(review.removed) if name in known]
    return ", ".join(names if len(names) == len(review.removed) else [*names, "an unknown field"])


def _all_but_other_spellings(
    found: Mapping[str, Raw], fields: Fields, stripped: tuple[str, ...]
) -> dict[str, object]:
    """Return all fields but those that are stripped or differ from a known name only by case.

    Servers written in Go (Ollama) take `Model` for `model`, and `\u017ftream` for `stream`.

    Raises:
        BadRequest: `stream` is not true, false or null.
    """
    STREAM.check(found.get("stream", Raw(b"null")), "stream", Review(()))
    not_sent = {name.casefold() for name in stripped}
    return {
        name: value
        for name, value in found.items()
        if (name in fields or name.casefold() not in fields) and name.casefold() not in not_sent
    }
