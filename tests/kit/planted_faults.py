"""`PlantedFault`, a fault that an `AlteringRelay` imitates, and builders of frame alterations."""

from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from tests.kit.altering_relay import Alter, AlteringRelay, unchanged


class PlantedFault(Struct, frozen=True):
    """A fault that the implementation under test appears to have when tested through the relay.

    Attributes:
        case: the id of the conformance case that finds it.
        to_agent: alters what the coordinator sends.
        to_coordinator: alters what the agent sends.
        close_codes: replaces the close codes of both sides.
        selects_subprotocol: whether the upgrade selects the subprotocol.
        refuses_unknown_types: whether a frame of an unknown type closes the connection with 1002.
    """

    case: str
    to_agent: Alter = unchanged
    to_coordinator: Alter = unchanged
    close_codes: dict[int, int] = {}
    selects_subprotocol: bool = True
    refuses_unknown_types: bool = False

    def relay(self) -> AlteringRelay:
        """Create a relay that produces the fault."""
        return AlteringRelay(
            to_agent=self.to_agent,
            to_coordinator=self.to_coordinator,
            close_codes=self.close_codes,
            selects_subprotocol=self.selects_subprotocol,
            refuses_unknown_types=self.refuses_unknown_types,
        )


def drop(kind: type, where: Callable[[Any], bool] = lambda _frame: True) -> Alter:
    """Of the frames of one type, drop those for which `where` is true."""
    return lambda frames: [f for f in frames if not (isinstance(f, kind) and where(f))]


def change(
    kind: type[Struct],
    fields: Callable[[Any], dict[str, Any]],
    where: Callable[[Any], bool] = lambda _frame: True,
) -> Alter:
    """Of the frames of one type, replace fields in those for which `where` is true."""

    def alter(frames: list[Any]) -> list[Any]:
        return [replace(f, **fields(f)) if isinstance(f, kind) and where(f) else f for f in frames]

    return alter


def repeat(kind: type) -> Alter:
    """Send each frame of one type twice."""
    return lambda frames: [g for f in frames for g in ([f, f] if isinstance(f, kind) else [f])]


def is_repeated() -> Callable[[Any], bool]:
    """Create a condition that is false for the first checked frame of each job, then true.

    Frames without a job id count as frames of one job.
    """
    seen: set[bytes] = set()

    def check(frame: Any) -> bool:
        job_id: bytes = getattr(frame, "job_id", b"")
        repeated = job_id in seen
        seen.add(job_id)
        return repeated

    return check
