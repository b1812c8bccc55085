"""Which cases of version 1 apply to the dialect `usepod` too, and why the others do not."""

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

from msgspec.structs import replace

from provider_agent.conformance.case import Case
from provider_agent.protocol.limits import USEPOD_DIALECT

DIALECT: Final = USEPOD_DIALECT

ANCHOR: Final = "rules-that-the-conformance-kit-tests"
"""The anchor of the section in docs/usepod.md that states the rules."""

UNKNOWN: Final = "no reason is known"

_MESSAGEPACK: Final = "messages are JSON"
_OF_MESSAGEPACK: Final = ("message-", "integer-", "extension-", "grouping")
"""The ids of the cases about the encoding of version 1 begin like this."""

ScopeT = TypeVar("ScopeT")


class VersionOneCases:
    """The cases of version 1, as they concern one side of the dialect.

    Args:
        applicable: the ids of the cases that also hold here, with the rule in the words of the
            dialect.
        reasons: reasons against other cases, with their ids. A case about the encoding needs none.
    """

    def __init__(self, applicable: Mapping[str, str], reasons: Mapping[str, Sequence[str]]) -> None:
        self.applicable: Final = applicable
        self.reasons: Final = reasons

    def reason_against(self, case_id: str) -> str:
        """Return why a case does not apply; "" if it does."""
        if case_id in self.applicable:
            return ""
        for reason, ids in self.reasons.items():
            if case_id in ids:
                return reason
        return _MESSAGEPACK if case_id.startswith(_OF_MESSAGEPACK) else UNKNOWN

    def choose(self, cases: Sequence[Case[ScopeT]]) -> list[Case[ScopeT]]:
        """Return those of the cases that apply, with the rules of the dialect."""
        return [
            replace(case, rule=self.applicable[case.id], anchor=ANCHOR)
            for case in cases
            if case.id in self.applicable
        ]

    def not_applicable(self, case_ids: Sequence[str]) -> dict[str, str]:
        """Return those of the cases that do not apply, and why."""
        return {case: reason for case in case_ids if (reason := self.reason_against(case))}
