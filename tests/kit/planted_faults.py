"""Alterations of frames, for an `AlteringRelay`."""

from collections.abc import Callable
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from tests.kit.altering_relay import Alter


def drop(kind: type, where: Callable[[Any], bool] = lambda _frame: True) -> Alter:
    """Drop frames of a type."""
    return lambda frames: [f for f in frames if not (isinstance(f, kind) and where(f))]


def change(
    kind: type[Struct],
    fields: Callable[[Any], dict[str, Any]],
    where: Callable[[Any], bool] = lambda _frame: True,
) -> Alter:
    """Replace fields of the frames of a type."""

    def alter(frames: list[Any]) -> list[Any]:
        return [replace(f, **fields(f)) if isinstance(f, kind) and where(f) else f for f in frames]

    return alter


def repeat(kind: type) -> Alter:
    """Send the frames of a type twice."""
    return lambda frames: [g for f in frames for g in ([f, f] if isinstance(f, kind) else [f])]


def is_repeated() -> Callable[[Any], bool]:
    """A condition that holds for every frame of a job but the first that it sees."""
    seen: set[bytes] = set()

    def check(frame: Any) -> bool:
        job_id: bytes = getattr(frame, "job_id", b"")
        repeated = job_id in seen
        seen.add(job_id)
        return repeated

    return check
