"""Flow control for a coroutine that reads or generates a response."""

import asyncio


class ReaderFlowControl:
    """`FlowControl` for a coroutine that checks before each read whether it may read."""

    def __init__(self) -> None:
        self._may_read = asyncio.Event()
        self._may_read.set()

    @property
    def is_paused(self) -> bool:
        """Whether the next read has to wait."""
        return not self._may_read.is_set()

    async def wait_until_resumed(self) -> None:
        """Return when the next read may happen; at once if reading is not paused."""
        await self._may_read.wait()

    def pause_reading(self) -> None:
        """Stop before the next read."""
        self._may_read.clear()

    def resume_reading(self) -> None:
        """Allow the next read."""
        self._may_read.set()
