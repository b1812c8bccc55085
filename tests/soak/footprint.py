"""Memory, file descriptors and tasks of this process, and their growth."""

import asyncio
import gc
import resource
import tracemalloc
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Self

MIB = 1024 * 1024

TRACED_SLACK_BYTES = 2 * MIB
"""Allowed growth: bounded collections fill up, such as the ids of past jobs."""

RESIDENT_SLACK_BYTES = 32 * MIB
"""Allowed growth: fragmentation of the allocator."""

_DESCRIPTORS = next(path for path in map(Path, ("/proc/self/fd", "/dev/fd")) if path.exists())


@dataclass(frozen=True)
class Footprint:
    """The process at one moment; sizes in bytes.

    Attributes:
        traced: memory allocated by Python.
        resident: resident memory; its peak, on systems that report only the peak.
        descriptors: number of open files, by type.
        tasks: number of tasks, by name.
        snapshot: where the memory was allocated; None if not measured in detail.
    """

    traced: int
    resident: int
    descriptors: Counter[str]
    tasks: Counter[str]
    snapshot: tracemalloc.Snapshot | None

    @classmethod
    def now(cls, *, detailed: bool = False) -> Self:
        """Measure; `detailed` collects garbage first and takes a snapshot."""
        if detailed:
            gc.collect()
        return cls(
            tracemalloc.get_traced_memory()[0],
            _resident_bytes(),
            _descriptors(),
            Counter(map(_name, asyncio.all_tasks())),
            tracemalloc.take_snapshot() if detailed else None,
        )

    def __str__(self) -> str:
        return (
            f"rss {self.resident / MIB:.0f} MiB, python {self.traced / MIB:.1f} MiB, "
            f"{self.descriptors.total()} fds, {self.tasks.total()} tasks"
        )

    def leaks_since(self, start: Self) -> list[str]:
        """Return descriptions of what has grown since the start."""
        leaks = []
        if self.traced > start.traced + TRACED_SLACK_BYTES:
            leaks += [f"memory: {self.traced - start.traced} bytes", *self._grown(start)]
        if self.resident > start.resident + RESIDENT_SLACK_BYTES:
            leaks.append(f"resident memory: {self.resident - start.resident} bytes")
        more = self.descriptors - start.descriptors
        if self.descriptors.total() > start.descriptors.total():
            leaks.append(f"file descriptors: {dict(more)}")
        tasks = self.tasks - start.tasks
        if tasks:
            leaks.append(f"tasks: {dict(tasks)}")
        return leaks

    def _grown(self, start: Self) -> list[str]:
        if self.snapshot is None or start.snapshot is None:
            return []
        hidden = [tracemalloc.Filter(False, tracemalloc.__file__)]
        before = start.snapshot.filter_traces(hidden)
        grown = self.snapshot.filter_traces(hidden).compare_to(before, "lineno")
        return [f"  {line}" for line in grown[:10]]


def _name(task: "asyncio.Task[object]") -> str:
    """Return a task's name up to any `#`; for an unnamed task, its coroutine's name.

    The number after `#` makes a backend's id unique, and changes with reloads.
    """
    name = task.get_name()
    if not name.startswith("Task-"):
        return name.partition("#")[0]
    return getattr(task.get_coro(), "__qualname__", "unnamed")


def _descriptors() -> Counter[str]:
    found: Counter[str] = Counter()
    for link in _DESCRIPTORS.iterdir():
        try:
            target = str(link.readlink())
        except OSError:  # the closed descriptor of the listing, or a system without such links
            target = "open"
        found[target.partition(":")[0]] += 1
    return found


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        # macOS has no /proc; its `ru_maxrss` is in bytes.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * resource.getpagesize()
