"""Writes a file that only its owner can read: completely, or not at all."""

import errno
import os
import secrets
from pathlib import Path
from typing import Final

_NO_HARD_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""Errors of file systems without hard links (FAT, some network and container volumes)."""


def write_private_file(path: Path, content: str, *, replace: bool) -> None:
    """Write `content` to `path` with mode 0600, atomically and durably.

    Missing directories are created.

    Args:
        path: the file; of a symbolic link, the link's target is replaced.
        content: the text, written as UTF-8.
        replace: whether an existing file is replaced.

    Raises:
        FileExistsError: the file exists, and `replace` is false.
        OSError: the file cannot be written.
    """
    if replace:
        path = path.resolve()
    if not path.parent.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content.encode())
            file.flush()
            os.fsync(descriptor)
        if replace:
            draft.replace(path)
        else:
            _publish(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _publish(draft: Path, path: Path) -> None:
    """Give the draft its name; unlike a rename, a hard link does not replace a new file."""
    try:
        path.hardlink_to(draft)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        draft.replace(path)
