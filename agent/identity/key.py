"""The agent's Ed25519 key: created once, readable only by its owner, never replaced by another.

An unusable key is an error; it is never replaced, because the coordinator identifies the operator
by this key and would not know a new one.
"""

import base64
import binascii
import hashlib
import os
import re
import stat
from codecs import BOM_UTF8
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from provider_agent.advised_error import AdvisedError
from provider_agent.agent.private_file import write_private_file
from provider_agent.event_log import EventLogger
from provider_agent.protocol.ed25519 import PrivateKey

log = EventLogger(__name__)

MAX_FILE_BYTES: Final = 16 * 1024
"""A key file has about 120 bytes; a larger file is not a key."""

_PEM_FORM: Final = b"-----BEGIN PRIVATE KEY-----\n%b\n-----END PRIVATE KEY-----\n"
_PEM: Final = re.compile(
    rb"-----BEGIN PRIVATE KEY-----([A-Za-z0-9+/=\s]*)-----END PRIVATE KEY-----"
)
"""A private key that is not encrypted (RFC 7468, section 10), with any line ends."""

_PKCS8_PREFIX: Final = bytes.fromhex("302e020100300506032b657004220420")
"""The DER encoding that precedes the 32 bytes of a private key (RFC 8410, section 7)."""

_RUST_BEGIN: Final = "-----BEGIN USEPOD AGENT KEY-----"
_RUST_END: Final = "-----END USEPOD AGENT KEY-----"
_RUST_FORM: Final = f"""\
{_RUST_BEGIN}
version: 1
created: {{created}}
secret: {{secret}}
public: {{public}}
{_RUST_END}
"""

_NEW_IDENTITY: Final = (
    "enroll this public key; if there is an enrolled key elsewhere, stop, and correct "
    "[identity] key_path"
)


class IdentityError(AdvisedError):
    """The key is not usable; `problem` names the file and the reason."""


class Identity:
    """The agent's key pair; the private key is used only by `sign`.

    Attributes:
        public_key: 32 raw bytes.
    """

    __slots__ = ("_private", "public_key")

    def __init__(self, private: PrivateKey) -> None:
        self._private = private
        self.public_key = private.public_key

    def __repr__(self) -> str:
        return f"<Identity {self.fingerprint}>"

    @property
    def public_key_text(self) -> str:
        """The public key in standard base64, the form of a coordinator's allow-list."""
        return base64.b64encode(self.public_key).decode()

    @property
    def fingerprint(self) -> str:
        """The first 16 hex digits of the public key's SHA-256, for humans to compare."""
        return hashlib.sha256(self.public_key).hexdigest()[:16]

    def sign(self, data: bytes) -> bytes:
        """Return the Ed25519 signature of `data`, 64 bytes."""
        return self._private.sign(data)


def load_or_create(path: Path, *, warn: bool = False, rust_form: bool = False) -> Identity:
    """Return the key at `path`; create it if the file does not exist.

    Args:
        path: the key file.
        warn: whether a new key may be a mistake, because the operator has configured the path and
            did not ask for a key. Then it is logged as a warning with its public key.
        rust_form: whether a new key is written in the form of the Rust agent, which reads no other.

    Two agents that start at the same time use the same key: the file is created atomically (if the
    file system has hard links), and the second agent loads it.

    Raises:
        IdentityError: the file is damaged or unreadable, or cannot be written.
    """
    created = _is_absent(path) and _create(path, rust_form=rust_form)
    identity = load(path)
    if created:
        fields = {"path": str(path.absolute()), "public_key": identity.public_key_text}
        if warn:
            log.warning("new identity created", **fields, what_to_do=_NEW_IDENTITY)
        else:
            log.info("identity created", **fields)
    return identity


def _is_absent(path: Path) -> bool:
    try:
        os.lstat(path)
    except PermissionError:  # in a folder that this user must not search; `load` reports it
        return False
    except OSError:
        return True
    return False


def load(path: Path) -> Identity:
    """Return the key at `path`: a PKCS #8 PEM file, or a key file of the Rust agent.

    Raises:
        IdentityError: the file is missing, damaged or unreadable.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1).removeprefix(BOM_UTF8)
            mode = os.fstat(file.fileno()).st_mode
    except FileNotFoundError as error:
        raise IdentityError(
            f"{path}: the file does not exist", "`provider-agent identity` creates it"
        ) from error
    except OSError as error:
        advice = "give this user read access to the file"
        if isinstance(error, IsADirectoryError):
            advice = f"set identity.key_path to a file, such as {path / 'identity.key'}"
        raise IdentityError(f"{path}: cannot be read: {error.strerror}", advice) from error
    if stat.S_IMODE(mode) & 0o077:
        log.warning(
            "key file accessible to other users",
            path=str(path),
            fix=f"chmod 600 {path}",
        )
    try:
        return Identity(_parse(content))
    except ValueError as error:
        # The text leaves out the cause, which may quote the file's secret content.
        raise IdentityError(
            f"{path}: damaged: {_reason(content)}",
            "restore the file from a backup, or move it away and enroll again as a new agent",
        ) from error


def _parse(content: bytes) -> PrivateKey:
    """Return the private key in `content`.

    Raises:
        ValueError: the content is not a usable key.
    """
    if len(content) > MAX_FILE_BYTES:
        raise ValueError("too big")
    if content.lstrip().startswith(_RUST_BEGIN.encode()):
        return _parse_rust_file(content.decode())
    if (found := _PEM.search(content)) is None:
        raise ValueError("no private key, or an encrypted one")
    der = base64.b64decode(found[1])
    if not der.startswith(_PKCS8_PREFIX):
        raise ValueError("a key of another algorithm")
    return PrivateKey(der[len(_PKCS8_PREFIX) :])


def _parse_rust_file(text: str) -> PrivateKey:
    """Parse a key file of the Rust agent: `name: value` lines between two markers."""
    lines = [line.strip() for line in text.strip().splitlines()]
    if lines[-1] != _RUST_END:
        raise ValueError("no end marker")
    fields = {}
    for line in lines[1:-1]:
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    if fields.get("version") != "1":
        raise ValueError("an unknown version")
    private = PrivateKey(_decode(fields, "secret"))
    if private.public_key != _decode(fields, "public"):
        raise ValueError("public and secret key do not match")
    return private


def _decode(fields: dict[str, str], name: str) -> bytes:
    try:
        return base64.b64decode(fields[name], validate=True)
    except (KeyError, binascii.Error) as error:
        raise ValueError(f"no usable {name} line") from error


def _reason(content: bytes) -> str:
    """Return why `content` is not a usable key, without quoting it."""
    if not content.strip():
        return "the file is empty"
    if len(content) > MAX_FILE_BYTES:
        return "too big to be a key"
    if b"ENCRYPTED" in content:
        return "encrypted with a password, which a service cannot enter"
    if _RUST_BEGIN.encode() in content:
        return "its version is unknown, lines are missing, or public and secret key do not match"
    return "not an Ed25519 key in PKCS #8 PEM form"


def _create(path: Path, *, rust_form: bool) -> bool:
    """Write a new key to `path`, durably; return False if another process has created one."""
    private = PrivateKey.generate()
    secret = private.seed
    content = _PEM_FORM % base64.b64encode(_PKCS8_PREFIX + secret)
    if rust_form:
        public = private.public_key
        content = _RUST_FORM.format(
            created=datetime.now(UTC).isoformat(),
            secret=base64.b64encode(secret).decode(),
            public=base64.b64encode(public).decode(),
        ).encode()
    try:
        _make_private_directory(path.parent)
        write_private_file(path, content, replace=False)
    except FileExistsError:
        return False
    except OSError as error:
        raise IdentityError(
            f"{path}: the key cannot be created: {error.strerror}",
            "make the directory writable for this user, or set identity.key_path",
        ) from error
    return True


def _make_private_directory(directory: Path) -> None:
    """`mkdir -p`; the created directories are accessible only to their owner."""
    missing = [directory, *directory.parents]
    for parent in reversed([path for path in missing if not path.exists()]):
        parent.mkdir(mode=0o700, exist_ok=True)
