"""A case: one rule of docs/protocol.md and the coroutine that tests it."""

from collections.abc import Awaitable, Callable, Iterator
from enum import StrEnum
from typing import Final, Generic, TypeVar

from msgspec import Struct

ScopeT = TypeVar("ScopeT")
"""What a case works on: the implementation under test, or all connections of a run."""

MAX_OBSERVED_CHARS: Final = 300
"""Longer observations are cut."""


class Verdict(StrEnum):
    """The result of a case."""

    HELD = "held"
    NOT_HELD = "not held"
    NOT_FOLLOWED = "not followed"
    """A recommendation (SHOULD) is not followed; this does not fail a run."""
    NOT_TESTED = "not tested"


class NotHeld(Exception):
    """The implementation broke the rule; the text is what was observed."""


class NotTested(Exception):
    """The case could not test the rule; the text is the reason."""


class Unreachable(Exception):
    """The implementation can no longer be reached, which ends the run; the text is the reason."""


class Case(Struct, Generic[ScopeT], frozen=True):
    """One test of one rule.

    Attributes:
        id: unique and stable, such as `resume-running`.
        anchor: the anchor of the section in docs/protocol.md that states the rule.
        rule: the rule in one sentence.
        run: tests the rule; returns what was observed, or raises `NotHeld`, `NotTested` or
            `Unreachable`.
        must: whether the rule is a MUST; otherwise it is a SHOULD.
    """

    id: str
    anchor: str
    rule: str
    run: Callable[[ScopeT], Awaitable[str]]
    must: bool


class Result(Struct, frozen=True):
    """The result of one case.

    Attributes:
        id: see `Case`.
        anchor: see `Case`.
        rule: see `Case`.
        verdict: whether the rule held.
        observed: what was observed, or why the case could not run.
        duration_s: how long the case took, in seconds.
    """

    id: str
    anchor: str
    rule: str
    verdict: Verdict
    observed: str
    duration_s: float


class CaseList(Generic[ScopeT]):
    """Collects the cases of a module: `@CASES.must("id", "anchor", "Rule.")`."""

    def __init__(self) -> None:
        self._cases: list[Case[ScopeT]] = []

    def __iter__(self) -> Iterator[Case[ScopeT]]:
        return iter(self._cases)

    def add(
        self,
        case_id: str,
        anchor: str,
        rule: str,
        run: Callable[[ScopeT], Awaitable[str]],
        *,
        must: bool = True,
    ) -> None:
        """Add a case."""
        self._cases.append(Case(case_id, anchor, rule, run, must))

    def must(
        self, case_id: str, anchor: str, rule: str
    ) -> Callable[[Callable[[ScopeT], Awaitable[str]]], Callable[[ScopeT], Awaitable[str]]]:
        """Decorate the coroutine function of a case about a MUST."""

        def register(run: Callable[[ScopeT], Awaitable[str]]) -> Callable[[ScopeT], Awaitable[str]]:
            self.add(case_id, anchor, rule, run)
            return run

        return register

    def should(
        self, case_id: str, anchor: str, rule: str
    ) -> Callable[[Callable[[ScopeT], Awaitable[str]]], Callable[[ScopeT], Awaitable[str]]]:
        """Decorate the coroutine function of a case about a SHOULD."""

        def register(run: Callable[[ScopeT], Awaitable[str]]) -> Callable[[ScopeT], Awaitable[str]]:
            self.add(case_id, anchor, rule, run, must=False)
            return run

        return register


def require(held: bool, observed: str) -> None:
    """If the rule did not hold, raise `NotHeld` with what was observed."""
    if not held:
        raise NotHeld(observed)
