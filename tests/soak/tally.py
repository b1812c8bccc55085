"""What the soak has seen so far, for its status lines and its end."""

from collections import Counter

from tests.soak.order import Order
from tests.soak.verdict import End, Outcome

_MOST_DEFECTS = 20
"""Kept: one is enough to fail, and thousands would only hide the first."""


class Tally:
    """Counts.

    Attributes:
        ends: how requests ended.
        codes: of the errors that clients saw.
        faults: what was done to the system.
        defects: what must never be, in words.
        resumed: sessions that went on over another link.
    """

    def __init__(self) -> None:
        self.ends: Counter[End] = Counter()
        self.codes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.defects: list[str] = []
        self.resumed = 0

    def ended(self, order: Order, outcome: Outcome) -> None:
        """A request is over."""
        self.ends[outcome.end] += 1
        if outcome.end in (End.FAILED, End.BROKEN):
            self.codes[outcome.detail] += 1
        if outcome.end is End.WRONG:
            self.defect(f"{order}: {outcome.detail}")

    def defect(self, text: str) -> None:
        """Something must never be."""
        if len(self.defects) < _MOST_DEFECTS:
            self.defects.append(text)

    def line(self) -> str:
        """Everything, on one line."""
        return (
            f"{_list(self.ends) or 'nothing yet'} | errors: {_list(self.codes) or 'none'} | "
            f"faults {self.faults.total()}, resumed {self.resumed}"
        )


def _list(counts: "Counter[End] | Counter[str]") -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())
