"""Bounds the bytes of request bodies that are in memory at once."""

from types import TracebackType
from typing import Self


class RequestMemory:
    """The bytes of all request bodies in memory.

    Args:
        limit_bytes: the most bytes.

    Attributes:
        held_bytes: bytes that requests hold now.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.held_bytes = 0
        self._limit_bytes = limit_bytes

    def __repr__(self) -> str:
        return f"<RequestMemory {self.held_bytes} of {self._limit_bytes}>"

    def fits(self, size: int) -> bool:
        """Whether a request may hold `size` more bytes now."""
        return self.held_bytes + size <= self._limit_bytes

    def share(self) -> "MemoryShare":
        """Return the empty share of a new request."""
        return MemoryShare(self)


class MemoryShare:
    """The bytes that one request holds; a context manager that releases them at its end.

    Args:
        memory: the memory of all requests.
    """

    def __init__(self, memory: RequestMemory) -> None:
        self._memory = memory
        self._size = 0

    def __repr__(self) -> str:
        return f"<MemoryShare {self._size} {self._memory!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._memory.held_bytes -= self._size
        self._size = 0

    def fits(self, size: int) -> bool:
        """Whether this request may hold `size` more bytes now."""
        return self._memory.fits(size)

    def grow(self, size: int) -> bool:
        """Hold `size` more bytes; returns False, and holds no more, if they do not fit."""
        if not self.fits(size):
            return False
        self._memory.held_bytes += size
        self._size += size
        return True
