"""CPU time and memory of a process and its descendants, from /proc (proc(5))."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

_KIB = 1024

_IDLE_CHECK_S = 0.25
_IDLE_SHARE = 0.02
_IDLE_CHECKS = 20


def cpu_ns(pid: int) -> int:
    """User and system time so far, in nanoseconds: the first field of each thread's `schedstat`.

    Where the kernel has none, the clock ticks of `stat`.
    """
    return sum(_cpu_of(one) for one in _tree(pid))


def wait_until_idle(
    pids: Sequence[int],
    usage: Callable[[int], int] = cpu_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until the processes use less than 2 % of a processor; at most 5 s.

    A relay may do a part of its start after its first jobs: the agent loads its status server when
    it is connected.

    Args:
        pids: the processes.
        usage: the CPU time of a process, in nanoseconds.
        sleep: waits for a number of seconds.
    """
    used_ns = sum(map(usage, pids))
    for _ in range(_IDLE_CHECKS):
        sleep(_IDLE_CHECK_S)
        before_ns, used_ns = used_ns, sum(map(usage, pids))
        if used_ns - before_ns < _IDLE_SHARE * _IDLE_CHECK_S * 1e9:
            return


def resident_bytes(pid: int) -> int:
    """Resident memory now."""
    return sum(_status_bytes(one, "VmRSS") for one in _tree(pid))


def peak_resident_bytes(pid: int) -> int:
    """The largest resident memory since `reset_peak`."""
    return sum(_status_bytes(one, "VmHWM") for one in _tree(pid))


def reset_peak(pid: int) -> None:
    """Make the current resident memory the new peak, where the system allows it."""
    for one in _tree(pid):
        with suppress(PermissionError):
            Path(f"/proc/{one}/clear_refs").write_text("5")


def _tree(pid: int) -> list[int]:
    found = [pid]
    for one in found:
        # Servers fork their workers in the main thread; another thread could exit meanwhile.
        children = Path(f"/proc/{one}/task/{one}/children").read_text()
        found.extend(int(child) for child in children.split())
    return found


def _threads(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").iterdir())


def _cpu_of(pid: int) -> int:
    try:
        return sum(int((one / "schedstat").read_text().split()[0]) for one in _threads(pid))
    except FileNotFoundError:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 10**9 // os.sysconf("SC_CLK_TCK")


def _status_bytes(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * _KIB
    return 0
