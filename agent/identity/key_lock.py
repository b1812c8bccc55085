"""A lock on the key file that shows that an agent runs with this key.

The `check` command reads the lock, and skips the handshake while an agent holds it: the coordinator
would reject it with `key_in_use`. The lock is shared, because a new agent may start while an old
one drains. The kernel releases it when the process ends. On a file system without such locks, the
key never appears locked.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def hold_key_lock(path: Path) -> Iterator[None]:
    """Hold a shared lock on the key file at `path`: other agents may hold it at the same time."""
    with path.open("rb") as file:
        with suppress(OSError):
            # Waits for `is_key_locked`, which holds an exclusive lock for a moment.
            fcntl.flock(file, fcntl.LOCK_SH)
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
