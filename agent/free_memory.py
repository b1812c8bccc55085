"""Returns memory to the system after a load.

glibc keeps freed memory between blocks that are in use: of a gigabyte that 1,000 stopped responses
had used, nearly all remained with the agent.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from provider_agent.protocol.limits import MIB

RETURNED_BYTES: Final = 64 * MIB
"""Less is not worth the work: it takes about 0.2 ms per megabyte."""


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 where the system does not tell (proc(5))."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def trim_heap() -> None:
    """Return the freed memory of the C library to the system: malloc_trim(3), on glibc only."""
    import ctypes  # rarely needed

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class FreeMemory:
    """Decides when freed memory is returned.

    Args:
        resident: returns the resident memory, in bytes.
        trim: returns freed memory to the system.
    """

    def __init__(
        self,
        resident: Callable[[], int] = resident_bytes,
        trim: Callable[[], None] = trim_heap,
    ) -> None:
        self._resident = resident
        self._trim = trim
        self._least: int | None = None

    def return_if_large(self) -> None:
        """Return freed memory if it is large; call it while no job runs: allocations wait."""
        resident = self._resident()
        if self._least is not None and resident - self._least >= RETURNED_BYTES:
            self._trim()
            resident = self._least = self._resident()
        self._least = min(resident, self._least or resident)
