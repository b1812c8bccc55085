"""Counts and defects of a soak run, for its status lines and its result."""

from collections import Counter

from tests.soak.outcome import End, Outcome
from tests.soak.random_request import RandomRequest

_MAX_DEFECTS = 20
"""One defect fails the run; thousands would hide the first."""


class Counts:
    """What happened so far.

    Attributes:
        ends: requests, by how they ended.
        codes: of the errors that clients received.
        faults: injected, by name.
        defects: descriptions of what must not happen.
        resumed: sessions resumed over a new link with running jobs.
    """

    def __init__(self) -> None:
        self.ends: Counter[End] = Counter()
        self.codes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.defects: list[str] = []
        self.resumed = 0

    def request_ended(self, request: RandomRequest, outcome: Outcome) -> None:
        """Count a request; a wrong outcome is a defect."""
        self.ends[outcome.end] += 1
        if outcome.end in (End.FAILED, End.BROKEN):
            self.codes[outcome.detail] += 1
        if outcome.end is End.WRONG:
            self.add_defect(f"{request}: {outcome.detail}")

    def add_defect(self, text: str) -> None:
        """Record something that must not happen."""
        if len(self.defects) < _MAX_DEFECTS:
            self.defects.append(text)

    def line(self) -> str:
        """All counts on one line."""
        return (
            f"{_list(self.ends) or 'nothing yet'} | errors: {_list(self.codes) or 'none'} | "
            f"faults {self.faults.total()}, resumed {self.resumed}"
        )


def _list(counts: "Counter[End] | Counter[str]") -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())
