"""A link that keeps order in each direction and, when it breaks, loses what is still on its way."""

from collections import deque
from typing import Generic, TypeVar

ToT = TypeVar("ToT")
BackT = TypeVar("BackT")


class LossyLink(Generic[ToT, BackT]):
    """Two queues of frames.

    Attributes:
        up: from the agent, oldest first.
        down: from the coordinator, oldest first.
        is_open: whether it carries anything.
    """

    def __init__(self) -> None:
        self.up: deque[ToT] = deque()
        self.down: deque[BackT] = deque()
        self.is_open = True

    def cut(self) -> None:
        """What was delivered is a prefix of what was sent, in each direction by itself."""
        self.up.clear()
        self.down.clear()
        self.is_open = False
