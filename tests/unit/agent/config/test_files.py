from pathlib import Path

import pytest

from provider_agent.agent.config.errors import ConfigError
from provider_agent.agent.config.files import (
    MAX_FILE_BYTES,
    config_home,
    expand,
    find_file,
    read_file,
)


def test_named_file_is_returned_even_if_it_is_missing(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "PROVIDER_AGENT_CONFIG": "~/other.toml"}
    assert find_file(Path("given.toml"), environ) == Path("given.toml")
    assert find_file(None, environ) == tmp_path / "other.toml"


def test_working_directory_is_searched_before_the_config_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    environ = {"HOME": "/nowhere", "XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    file = tmp_path / "xdg" / "provider-agent" / "agent.toml"
    file.parent.mkdir(parents=True)
    file.touch()
    assert find_file(None, environ) == file
    Path("agent.toml").touch()
    assert find_file(None, environ) == Path("agent.toml")


def test_relative_xdg_config_home_is_ignored() -> None:
    environ = {"HOME": "/home/op", "XDG_CONFIG_HOME": "relative"}
    assert config_home(environ) == Path("/home/op/.config/provider-agent")


def test_leading_tilde_is_expanded_to_the_home_directory() -> None:
    environ = {"HOME": "/home/op"}
    assert expand("~/key", environ) == Path("/home/op/key")
    assert expand("~", environ) == Path("/home/op")
    assert expand("a/~/b", environ) == Path("a/~/b")


def test_credentials_directory_of_systemd_is_expanded() -> None:
    environ = {"CREDENTIALS_DIRECTORY": "/run/credentials/agent"}
    assert expand("$CREDENTIALS_DIRECTORY/key", environ) == Path("/run/credentials/agent/key")
    # Without systemd the path stays as written, so the error about the missing file shows it.
    assert expand("$CREDENTIALS_DIRECTORY/key", {}) == Path("$CREDENTIALS_DIRECTORY/key")
    assert expand("$HOME/key", {"HOME": "/h"}) == Path("$HOME/key")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[limits]\nmax_concurrent = \n", "line 2, column 18: not valid TOML: Invalid value"),
        (b"[limits\n", "line 1, column 8: not valid TOML"),
        (b'a = "x', "end of document: not valid TOML"),
        (b"a = 1\nb = '\xff'\n", "line 2: not UTF-8"),
        (b"#" * (MAX_FILE_BYTES + 1), "larger than 1048576 bytes"),
        (b"a = " + b"[" * 5000, "nested too deeply"),
        (b"a = " + b"1" * 4301, "a number has too many digits"),
    ],
)
def test_error_about_an_invalid_file_contains_path_and_reason(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "agent.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_error_about_an_unreadable_file_contains_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file; write it with `provider-agent init"):
        read_file(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is a directory, not a file; name a file; container"):
        read_file(tmp_path)


def test_a_directory_in_a_default_place_is_not_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Docker creates a directory if the agent.toml to mount does not exist; without this error, the
    # agent would run without the settings of the operator.
    monkeypatch.chdir(tmp_path)
    Path("agent.toml").mkdir()
    found = find_file(None, {"HOME": "/nowhere"})
    assert found == Path("agent.toml")
    with pytest.raises(ConfigError, match="is a directory, not a file"):
        read_file(found)


def test_user_without_a_home_directory_needs_no_configuration_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert config_home({}) == Path("/.config/provider-agent")
