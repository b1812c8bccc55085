"""Whether an agent runs with a key: a lock on the key's file that ends with the process.

A second connection of the same key takes the first one's place, so whoever only wants to try the
coordinator has to know. Several agents may hold the lock: a new one may start while an old one
drains. Where the file system has no such locks, nobody is seen.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def hold_key_lock(path: Path) -> Iterator[None]:
    """Hold the lock while an agent runs with the key at `path`."""
    with path.open("rb") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


def is_key_locked(path: Path) -> bool:
    """Whether an agent holds the lock."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
