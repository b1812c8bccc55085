import base64
import stat
from pathlib import Path

import pytest

from provider_agent.agent.identity.key import load, load_or_create
from provider_agent.agent.identity.provider_id import (
    read_provider_id,
    store_provider_id,
    with_provider_id,
)
from tests.unit.agent.identity.test_key import PUBLIC, SECRET, rust_agent_file

RUST_FILE = rust_agent_file(SECRET, PUBLIC)


@pytest.fixture(params=["pem", "rust"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "identity.key"
    if request.param == "rust":
        path.write_text(RUST_FILE)
        path.chmod(0o600)
    else:
        load_or_create(path)
    return path


def test_a_stored_id_is_read_again_and_the_key_stays(path: Path) -> None:
    key = load(path).public_key

    for provider_id in ("prov_1", "prov_2"):
        store_provider_id(path, provider_id)
        assert read_provider_id(path) == provider_id
        assert load(path).public_key == key
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().count("provider_id") == 1


def test_the_line_is_where_the_rust_agent_writes_it() -> None:
    lines = with_provider_id(RUST_FILE.encode(), "prov_1").decode().splitlines()

    assert lines[-2:] == ["provider_id: prov_1", "-----END USEPOD AGENT KEY-----"]


RECORDED = b"""\
-----BEGIN USEPOD AGENT KEY-----
version: 1
created: 2026-11-27T08:38:34.313548071+00:00
secret: SECRET
public: PUBLIC
provider_id: prov_0123456789
-----END USEPOD AGENT KEY-----
"""
"""A key file that the Rust agent 0.3.3 wrote and has enrolled, with another key."""


def test_an_enrolled_file_has_the_bytes_that_the_rust_agent_writes(tmp_path: Path) -> None:
    # So that an operator can go back to that agent.
    expected = RECORDED.replace(b"SECRET", base64.b64encode(SECRET))
    expected = expected.replace(b"PUBLIC", base64.b64encode(PUBLIC))
    path = tmp_path / "identity.key"
    path.write_bytes(expected.replace(b"provider_id: prov_0123456789\n", b""))
    path.chmod(0o600)
    assert read_provider_id(path) == ""

    store_provider_id(path, "prov_0123456789")

    assert path.read_bytes() == expected
    assert load(path).public_key == PUBLIC


def test_running_without_a_new_id_leaves_the_file_as_it_is(path: Path) -> None:
    before = path.read_bytes()

    assert load_or_create(path).public_key == load(path).public_key
    read_provider_id(path)

    assert path.read_bytes() == before


def test_a_file_without_an_id_or_without_content_has_none(path: Path, tmp_path: Path) -> None:
    assert read_provider_id(path) == ""
    assert read_provider_id(tmp_path / "missing") == ""


@pytest.mark.parametrize("provider_id", ["", "two\nlines", "x" * 513])
def test_an_id_that_is_no_line_is_refused(provider_id: str, path: Path) -> None:
    before = path.read_bytes()

    with pytest.raises(ValueError, match="provider id"):
        store_provider_id(path, provider_id)
    assert path.read_bytes() == before


def test_a_file_of_an_unknown_form_is_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(b"other")

    with pytest.raises(ValueError, match="form"):
        store_provider_id(path, "prov_1")
    assert path.read_bytes() == b"other"
