"""A link that keeps the order of frames, and loses the frames in flight when it is cut."""

from collections import deque
from typing import Generic, TypeVar

UpT = TypeVar("UpT")
DownT = TypeVar("DownT")


class LossyLink(Generic[UpT, DownT]):
    """The frames in flight in both directions.

    Attributes:
        up: frames from the agent, oldest first.
        down: frames from the coordinator, oldest first.
        is_open: False once the link was cut.
    """

    def __init__(self) -> None:
        self.up: deque[UpT] = deque()
        self.down: deque[DownT] = deque()
        self.is_open = True

    def cut(self) -> None:
        """Drop the frames in flight, so each direction has delivered a prefix of its frames."""
        self.up.clear()
        self.down.clear()
        self.is_open = False
