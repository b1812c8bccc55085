"""Counts and defects of a soak run, for its status lines and its result."""

from collections import Counter

from tests.soak.outcome import Outcome, OutcomeKind
from tests.soak.random_request import RandomRequest

_MAX_DEFECTS = 20
"""The most defects that are kept; later ones are dropped."""


class Counts:
    """What has happened so far.

    Attributes:
        outcomes: number of requests by outcome.
        errors: number of failed requests by error code, and of broken ones by the client's
            exception.
        faults: number of injected faults by name.
        defects: descriptions of events that must not happen.
        resumed: how often a session with running jobs was resumed over a new link.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[OutcomeKind] = Counter()
        self.errors: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.defects: list[str] = []
        self.resumed = 0

    def request_ended(self, request: RandomRequest, outcome: Outcome) -> None:
        """Count a request; a wrong outcome is a defect."""
        self.outcomes[outcome.kind] += 1
        if outcome.kind in (OutcomeKind.FAILED, OutcomeKind.BROKEN):
            self.errors[outcome.detail] += 1
        if outcome.kind is OutcomeKind.WRONG:
            self.add_defect(f"{request}: {outcome.detail}")

    def add_defect(self, text: str) -> None:
        """Record something that must not happen."""
        if len(self.defects) < _MAX_DEFECTS:
            self.defects.append(text)

    def line(self) -> str:
        """Return the counts on one line, without defects."""
        return (
            f"{_list(self.outcomes) or 'nothing yet'} | errors: {_list(self.errors) or 'none'} | "
            f"faults {self.faults.total()}, resumed {self.resumed}"
        )


def _list(counts: "Counter[OutcomeKind] | Counter[str]") -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())
