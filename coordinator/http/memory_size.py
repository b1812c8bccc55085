"""The default memory for request bodies: a share of the memory that this process may use."""

import contextlib
import os
from pathlib import Path
from typing import Final

from provider_agent.protocol.limits import MAX_REQUEST_BYTES, MIB

MOST_REQUEST_BYTES: Final = 512 * MIB
"""The default memory for requests on a large machine: thousands of usual requests."""

_SHARE: Final = 4
"""A quarter is for request bodies: responses, connections and copies need memory too."""


def default_request_memory(root: Path = Path("/")) -> int:
    """Return the default of the memory for request bodies, in bytes.

    Args:
        root: where `proc` and `sys` are.
    """
    sizes = []
    with contextlib.suppress(OSError, ValueError, AttributeError):  # Windows has no sysconf
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):
        sizes += _group_limits(root)
    available = min((size for size in sizes if size > 0), default=MOST_REQUEST_BYTES * _SHARE)
    return max(MAX_REQUEST_BYTES, min(MOST_REQUEST_BYTES, available // _SHARE))


def _group_limits(root: Path) -> list[int]:
    """Return the limits of this process's control group and its parents (`memory.max` of v2).

    Raises:
        OSError: the control group is not known.
    """
    text = (root / "proc/self/cgroup").read_text("utf-8").strip().rpartition("::")[2]
    top = root / "sys/fs/cgroup"
    group, limits = top / text.lstrip("/"), list[int]()
    for path in (group, *group.parents[: len(group.parts) - len(top.parts)]):
        with contextlib.suppress(OSError, ValueError):  # no such file, or `max`
            limits.append(int((path / "memory.max").read_text("utf-8")))
    return limits
