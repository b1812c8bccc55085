import base64
import errno
import hashlib
import logging
import os
import stat
import threading
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from provider_agent.agent.identity.key import (
    MAX_FILE_BYTES,
    Identity,
    IdentityError,
    load,
    load_or_create,
)
from provider_agent.protocol.ed25519 import PrivateKey


def rust_agent_file(secret: bytes, public: bytes, version: str = "1") -> str:
    """Return a key file of the Rust agent, which this agent also accepts."""
    return (
        "-----BEGIN USEPOD AGENT KEY-----\n"
        f"version: {version}\n"
        "created: 2026-01-31T12:00:00Z\n"
        f"secret: {base64.b64encode(secret).decode()}\n"
        f"public: {base64.b64encode(public).decode()}\n"
        "comment: made elsewhere\n"
        "-----END USEPOD AGENT KEY-----\n"
    )


def test_new_key_is_kept_and_private(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "identity.key"
    created = load_or_create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.parent.parent.stat().st_mode & 0o777 == 0o700
    assert load_or_create(path).public_key == load(path).public_key == created.public_key
    assert os.listdir(path.parent) == ["identity.key"]  # noqa: PTH208 - no temporary file is left


def test_signature_verifies_with_the_public_key() -> None:
    identity = Identity(PrivateKey.generate())
    signature = identity.sign(b"challenge")
    Ed25519PublicKey.from_public_bytes(identity.public_key).verify(signature, b"challenge")
    assert len(identity.public_key) == 32
    assert base64.b64decode(identity.public_key_text) == identity.public_key


def test_repr_shows_only_the_fingerprint() -> None:
    identity = Identity(PrivateKey(bytes(32)))
    digest = hashlib.sha256(identity.public_key).hexdigest()
    assert identity.fingerprint == digest[:16]
    assert repr(identity) == f"<Identity {digest[:16]}>"


def test_agents_that_start_at_the_same_time_share_one_key(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    barrier = threading.Barrier(8, timeout=10)
    keys = []

    def start() -> None:
        barrier.wait()
        keys.append(load_or_create(path).public_key)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1


def test_key_is_created_on_a_file_system_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_hard_link(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse_hard_link)
    path = tmp_path / "identity.key"
    assert load_or_create(path).public_key == load(path).public_key
    assert path.stat().st_mode & 0o777 == 0o600


def test_key_file_of_the_rust_agent_is_loaded(tmp_path: Path) -> None:
    private = Ed25519PrivateKey.generate()
    path = tmp_path / "identity.key"
    path.write_text(
        rust_agent_file(private.private_bytes_raw(), private.public_key().public_bytes_raw())
    )
    assert load(path).public_key == private.public_key().public_bytes_raw()


SECRET = bytes(range(32))
PUBLIC = Ed25519PrivateKey.from_private_bytes(SECRET).public_key().public_bytes_raw()
PEM = Ed25519PrivateKey.from_private_bytes(SECRET).private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)
OTHER_ALGORITHM = generate_private_key(SECP256R1()).private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.NoEncryption(),
)
ENCRYPTED = Ed25519PrivateKey.from_private_bytes(SECRET).private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.PKCS8,
    serialization.BestAvailableEncryption(b"password"),
)


@pytest.mark.parametrize(
    "content",
    [PEM, PEM.replace(b"\n", b"\r\n"), PEM.rstrip(), b"a comment\n" + PEM],
    ids=["as written", "CRLF", "no line end", "comment"],
)
def test_forms_of_a_pem_file_are_loaded(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(content)
    path.chmod(0o600)

    assert load(path).public_key == PUBLIC


def test_new_key_file_can_have_the_form_of_the_rust_agent(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "identity.key"
    identity = load_or_create(path, rust_form=True)
    begin, version, created, secret, public, end = path.read_text().splitlines()

    assert (begin, end) == (
        "-----BEGIN USEPOD AGENT KEY-----",
        "-----END USEPOD AGENT KEY-----",
    )
    assert version == "version: 1"
    assert datetime.fromisoformat(created.removeprefix("created: ")).utcoffset() == timedelta(0)
    seed = base64.b64decode(secret.removeprefix("secret: "), validate=True)
    derived = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    assert base64.b64decode(public.removeprefix("public: "), validate=True) == derived
    assert load(path).public_key == identity.public_key == derived
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_new_key_file_is_pkcs8(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    identity = load_or_create(path)

    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, Ed25519PrivateKey)
    assert key.public_key().public_bytes_raw() == identity.public_key
    assert path.read_bytes() == key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (PEM.replace(b"MC4", b"MC5"), "not an Ed25519 key"),
        (b" \n", "the file is empty"),
        (b"not a key", "not an Ed25519 key in PKCS #8 PEM form"),
        (b"\xff\x00" * 10, "not an Ed25519 key"),
        (b"x" * (MAX_FILE_BYTES + 1), "too big to be a key"),
        (OTHER_ALGORITHM, "not an Ed25519 key"),
        (OTHER_ALGORITHM[:80], "not an Ed25519 key"),
        (ENCRYPTED, "encrypted with a password"),
        (rust_agent_file(SECRET, bytes(32)).encode(), "do not match"),
        (rust_agent_file(SECRET, PUBLIC, "2").encode(), "lines are missing"),
        (rust_agent_file(SECRET[:31], PUBLIC).encode(), "lines are missing"),
        (rust_agent_file(SECRET, PUBLIC)[:-40].encode(), "lines are missing"),
        (rust_agent_file(SECRET, PUBLIC).replace("secret", "x").encode(), "lines are missing"),
    ],
    # Numbers, because the contents differ in each process, and pytest-xdist requires equal ids.
    ids=range(14),
)
def test_damaged_file_is_an_error_and_is_not_changed(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(IdentityError) as caught:
        load_or_create(path)
    assert str(caught.value).startswith(f"{path}: damaged: ")
    assert reason in str(caught.value)
    assert "restore the file from a backup" in str(caught.value)
    assert base64.b64encode(SECRET).decode() not in str(caught.value)
    assert path.read_bytes() == content


def test_error_for_a_missing_file_names_the_command_that_creates_it(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="`provider-agent identity` creates it"):
        load(tmp_path / "identity.key")


def test_dangling_symlink_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    path.symlink_to(tmp_path / "gone")
    with pytest.raises(IdentityError):
        load_or_create(path)
    assert path.is_symlink()


def test_error_names_why_a_file_cannot_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=r"cannot be read: Is a directory.*to a file"):
        load_or_create(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(
        IdentityError, match=r"cannot be created: Not a directory.*identity\.key_path"
    ):
        load_or_create(tmp_path / "file" / "identity.key")


def test_key_file_that_others_can_read_causes_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "identity.key"
    with caplog.at_level(logging.WARNING, "provider_agent.agent.identity.key"):
        load_or_create(path)
        assert caplog.records == []
        path.chmod(0o644)
        load(path)
    assert [record.getMessage() for record in caplog.records] == [
        "key file accessible to other users"
    ]
