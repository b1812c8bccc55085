"""Access control: secrets of clients and operators, and public keys of agents.

Secrets are compared by their SHA-256 digests in constant time. The settings do not contain the
plain text, so that no `repr` or log line of them can show it.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from pathlib import Path

from provider_agent.coordinator.exceptions import SettingsError
from provider_agent.protocol.frames import Hello

PUBLIC_KEY_BYTES = 32
"""The size of an Ed25519 public key (RFC 8032)."""


class SecretSet:
    """A set of secrets, each of which grants access.

    Args:
        secrets: the secrets in plain text; only their digests are kept.
    """

    __slots__ = ("_digests",)

    def __init__(self, secrets: Iterable[str]) -> None:
        self._digests = tuple(sorted({digest_of(secret) for secret in secrets}))

    def __repr__(self) -> str:
        return f"<SecretSet of {len(self._digests)}>"

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def digests(self) -> tuple[bytes, ...]:
        """The SHA-256 digests of the secrets."""
        return self._digests

    def holds(self, presented: str) -> bool:
        """Whether `presented` is one of the secrets, in constant time."""
        digest = digest_of(presented)
        found = False
        for known in self._digests:
            found |= hmac.compare_digest(known, digest)
        return found


def digest_of(secret: str) -> bytes:
    """Return the SHA-256 digest of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def admits_agent(
    hello: Hello, codes: SecretSet | None, public_keys: frozenset[bytes] | None
) -> bool:
    """Whether an agent whose signature is verified is admitted.

    Args:
        hello: the agent's `Hello`.
        codes: enrollment codes, each of which admits any key; None if not configured.
        public_keys: keys that are admitted without a code; None if not configured.

    Returns:
        True if `public_keys` contains the agent's key, if `codes` contains its enrollment code, or
            if both are None.
    """
    if codes is None and public_keys is None:
        return True
    if public_keys is not None and hello.public_key in public_keys:
        return True
    return codes is not None and bool(hello.enrollment_code) and codes.holds(hello.enrollment_code)


def read_entries(
    path: Path | None, variable: str, environment: Mapping[str, str]
) -> list[str] | None:
    """Return the entries of a file (one per line) or an environment variable (comma-separated).

    Empty lines and lines that start with `#` are ignored. The file takes precedence.

    Returns:
        At least one entry; None if neither is configured.

    Raises:
        SettingsError: the file cannot be read, or the source contains no entry. An empty list must
            not be mistaken for unrestricted access.
    """
    if path is not None:
        source, text, how = str(path), _read(path), "add one per line"
    elif variable in environment:
        text = environment[variable].replace(",", "\n")
        source, how = variable, "separate several with commas"
    else:
        return None
    lines = (line.strip() for line in text.splitlines())
    entries = [line for line in lines if line and not line.startswith("#")]
    if not entries:
        raise SettingsError(f"{source}: contains no entry; {how}, or remove the setting")
    return entries


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not UTF-8 text") from error


def parse_public_keys(entries: Iterable[str]) -> frozenset[bytes]:
    """Decode Ed25519 public keys from base64 to their 32 bytes.

    Raises:
        SettingsError: an entry is not the base64 text of 32 bytes.
    """
    return frozenset(_parse_public_key(number, entry) for number, entry in enumerate(entries, 1))


def _parse_public_key(number: int, entry: str) -> bytes:
    try:
        key = base64.b64decode(entry, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != PUBLIC_KEY_BYTES:
        raise SettingsError(
            f"entry {number} of the agents' keys is not the base64 text of a 32-byte public key; "
            "`provider-agent identity` prints it"
        )
    return key
