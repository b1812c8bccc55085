import base64
from pathlib import Path

import pytest

from provider_agent.coordinator.access import (
    SecretSet,
    admits_agent,
    parse_public_keys,
    read_entries,
)
from provider_agent.coordinator.exceptions import SettingsError
from provider_agent.protocol.frames import Hello

KEY = bytes(range(32))


def test_secret_set_contains_only_its_secrets() -> None:
    secrets = SecretSet(["one", "two"])
    assert secrets.holds("one")
    assert secrets.holds("two")
    assert not secrets.holds("three")
    assert not secrets.holds("")
    assert not secrets.holds("\udcff")


def test_repr_of_a_secret_set_shows_no_secret() -> None:
    assert repr(SecretSet(["hunter2"])) == "<SecretSet of 1>"


@pytest.mark.parametrize(
    ("codes", "keys", "code", "admitted"),
    [
        pytest.param(None, None, "", True, id="neither is configured"),
        pytest.param(["c"], None, "c", True, id="known code"),
        pytest.param(["c"], None, "d", False, id="unknown code"),
        pytest.param(["c"], None, "", False, id="no code"),
        pytest.param(None, [KEY], "", True, id="known key"),
        pytest.param(None, [bytes(32)], "c", False, id="unknown key"),
        pytest.param(["c"], [bytes(32)], "c", True, id="unknown key, known code"),
        pytest.param(["c"], [KEY], "", True, id="known key, no code"),
    ],
)
def test_agent_is_admitted_by_key_or_code(
    codes: list[str] | None, keys: list[bytes] | None, code: str, admitted: bool
) -> None:
    hello = Hello("1", KEY, bytes(64), enrollment_code=code)
    known_codes = None if codes is None else SecretSet(codes)
    known_keys = None if keys is None else frozenset(keys)
    assert admits_agent(hello, known_codes, known_keys) is admitted


def test_entries_of_a_file_take_precedence_over_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# comment\n\n  one  \ntwo#2\n", "utf-8")
    assert read_entries(path, "KEYS", {"KEYS": "three"}) == ["one", "two#2"]


def test_entries_are_read_from_an_environment_variable() -> None:
    assert read_entries(None, "KEYS", {"KEYS": "one, two"}) == ["one", "two"]
    assert read_entries(None, "KEYS", {}) is None


def test_source_without_an_entry_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# nothing\n", "utf-8")
    with pytest.raises(SettingsError, match="contains no entry; add one per line,"):
        read_entries(path, "KEYS", {})
    with pytest.raises(SettingsError, match=r"KEYS: .* separate several with commas,"):
        read_entries(None, "KEYS", {"KEYS": ""})


def test_error_about_an_unreadable_file_names_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="missing: cannot be read: No such file"):
        read_entries(tmp_path / "missing", "KEYS", {})
    (tmp_path / "binary").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="not UTF-8"):
        read_entries(tmp_path / "binary", "KEYS", {})


def test_public_keys_are_base64_of_32_bytes() -> None:
    assert parse_public_keys([base64.b64encode(KEY).decode()]) == {KEY}


@pytest.mark.parametrize(
    "entry",
    ["", "!", "AAAA", base64.b64encode(bytes(33)).decode(), "ä"],
    ids=["empty", "not base64", "3 bytes", "33 bytes", "not ASCII"],
)
def test_invalid_public_key_is_an_error(entry: str) -> None:
    with pytest.raises(SettingsError, match="entry 1 of the agents' keys"):
        parse_public_keys([entry])
