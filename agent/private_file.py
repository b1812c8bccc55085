"""Writes a file that only its owner can read: completely, or not at all."""

import errno
import os
import secrets
from pathlib import Path
from typing import Final

_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""Errors of file systems without hard links (FAT, some network and container volumes)."""


def resolved(path: Path) -> Path:
    """Return the file that a path with symbolic links names.

    Raises:
        OSError: the links are a loop.
    """
    try:
        return path.resolve()
    except RuntimeError as error:  # before Python 3.13
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error


def write_private_file(path: Path, content: bytes, *, replace: bool) -> None:
    """Write `content` to `path` with mode 0600, atomically and durably.

    On a file system without hard links, a new file is written directly, and another process may
    read an incomplete one until this function returns.

    Args:
        path: the file, in an existing directory; of a symbolic link, the target is replaced.
        content: the content.
        replace: whether an existing file is replaced.

    Raises:
        FileExistsError: the file exists, and `replace` is false.
        OSError: the file cannot be written.
    """
    if replace:
        path = resolved(path)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write(draft, content)
        if replace:
            draft.replace(path)
        else:
            _publish(draft, path, content)
    finally:
        draft.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _publish(draft: Path, path: Path, content: bytes) -> None:
    """Give the draft its name; unlike a rename, a hard link does not replace a new file."""
    try:
        path.hardlink_to(draft)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _write(path, content)


def _sync_directory(directory: Path) -> None:
    """Make the new directory entry durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
