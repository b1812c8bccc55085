"""The agent's Ed25519 key: created once, readable by its owner only, never overwritten.

A key that cannot be used is an error, never a reason to make a new one: the coordinator knows the
operator by this key, and a silent new one would be a stranger.
"""

import base64
import binascii
import errno
import hashlib
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provider_agent.event_log import EventLogger

log = EventLogger(__name__)

MAX_FILE_BYTES: Final = 16 * 1024
"""A key file has about 120 bytes; anything this big is something else."""

_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""How a file system without hard links says so (FAT, some network and container volumes)."""

_OTHER_BEGIN: Final = "-----BEGIN USEPOD AGENT KEY-----"
_OTHER_END: Final = "-----END USEPOD AGENT KEY-----"


class IdentityError(Exception):
    """The key cannot be used; the text names the file, the reason and what to do."""


class Identity:
    """The agent's key pair. The private half stays inside.

    Attributes:
        public_key: 32 raw bytes.
    """

    __slots__ = ("_private", "public_key")

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public_key: bytes = private.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"<Identity {self.fingerprint}>"

    @property
    def public_key_text(self) -> str:
        """The public key in standard base64, as coordinators take it in an allow-list."""
        return base64.b64encode(self.public_key).decode()

    @property
    def fingerprint(self) -> str:
        """16 hex digits of the public key's SHA-256: enough to compare by eye."""
        return hashlib.sha256(self.public_key).hexdigest()[:16]

    def sign(self, data: bytes) -> bytes:
        """The Ed25519 signature of `data`, 64 bytes."""
        return self._private.sign(data)


def load_or_create(path: Path) -> Identity:
    """The key at `path`; a new one when there is no such file.

    Two agents that start at once end up with the same key: the file appears complete or not at all,
    and whoever comes second loads it.

    Raises:
        IdentityError: the file is damaged or unreadable, or cannot be written.
    """
    if not os.path.lexists(path):
        _create(path)
    return load(path)


def load(path: Path) -> Identity:
    """The key at `path`: a PKCS #8 PEM file, or the file of the existing Rust agent.

    Raises:
        IdentityError: the file is missing, damaged or unreadable.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
            mode = os.fstat(file.fileno()).st_mode
    except FileNotFoundError as error:
        raise IdentityError(
            f"{path}: no key here yet; `provider-agent run` creates one at its first start"
        ) from error
    except OSError as error:
        raise IdentityError(
            f"{path}: cannot be read: {error.strerror}; give this user read access to the file"
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        log.warning(
            "the key file can be used by other users",
            path=str(path),
            fix=f"chmod 600 {path}",
        )
    try:
        return Identity(_parse(content))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The cause may quote the file, which is a secret; it is not chained into the text.
        raise IdentityError(
            f"{path}: damaged: {_reason(content)}; restore it from a backup. To start over as a "
            "new agent, move the file away and enrol again"
        ) from error


def _parse(content: bytes) -> Ed25519PrivateKey:
    """The private key in a file; ValueError or TypeError when it holds none."""
    if len(content) > MAX_FILE_BYTES:
        raise ValueError("too big")
    if content.lstrip().startswith(_OTHER_BEGIN.encode()):
        return _parse_other(content.decode())
    key = serialization.load_pem_private_key(content, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise TypeError("a key of another algorithm")
    return key


def _parse_other(text: str) -> Ed25519PrivateKey:
    """The key file of the existing Rust agent: `name: value` lines between two markers."""
    lines = [line.strip() for line in text.strip().splitlines()]
    if lines[-1] != _OTHER_END:
        raise ValueError("no end marker")
    fields = {}
    for line in lines[1:-1]:
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    if fields.get("version") != "1":
        raise ValueError("an unknown version")
    private = Ed25519PrivateKey.from_private_bytes(_decode(fields, "secret"))
    if private.public_key().public_bytes_raw() != _decode(fields, "public"):
        raise ValueError("public and secret do not belong together")
    return private


def _decode(fields: dict[str, str], name: str) -> bytes:
    try:
        return base64.b64decode(fields[name], validate=True)
    except (KeyError, binascii.Error) as error:
        raise ValueError(f"no usable {name} line") from error


def _reason(content: bytes) -> str:
    """Why a file holds no key, in words that quote nothing of it."""
    if not content.strip():
        return "the file is empty"
    if len(content) > MAX_FILE_BYTES:
        return "too big to be a key"
    if b"ENCRYPTED" in content:
        return "encrypted with a password, which a service cannot type"
    if _OTHER_BEGIN.encode() in content:
        return "its lines are incomplete, or public and secret do not belong together"
    return "not an Ed25519 key in PKCS #8 PEM form"


def _create(path: Path) -> None:
    """Write a new key to `path`, complete and durable, unless the file exists by then."""
    content = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _make_private_directory(path.parent)
        try:
            _write_private(draft, content)
            _publish(draft, path, content)
        finally:
            draft.unlink(missing_ok=True)
    except FileExistsError:
        return  # another process was faster; its key is as good
    except OSError as error:
        raise IdentityError(
            f"{path}: the key cannot be created: {error.strerror}; make the directory writable for "
            "this user, or set identity.key_path"
        ) from error
    log.info("identity created", path=str(path))


def _publish(draft: Path, path: Path, content: bytes) -> None:
    """Give the finished file its name; a link, unlike a rename, never replaces anything."""
    try:
        path.hardlink_to(draft)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _write_private(path, content)
    _sync_directory(path.parent)


def _write_private(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _sync_directory(directory: Path) -> None:
    """Makes the new name itself survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_private_directory(directory: Path) -> None:
    """`mkdir -p` that leaves every directory it makes to its owner alone."""
    missing = [directory, *directory.parents]
    for place in reversed([place for place in missing if not place.exists()]):
        place.mkdir(mode=0o700, exist_ok=True)
