"""Finds and reads `agent.toml`; expands paths."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from provider_agent.agent.config.errors import ConfigError
from provider_agent.agent.config.flags import CONFIG_VARIABLE

MAX_FILE_BYTES: Final = 1024 * 1024
"""A thousand priced models need about 100 KB; a file over this size is not an `agent.toml`."""

RUST_AGENT_FOLDER: Final = "usepod-agent"
"""The folder of the Rust agent's `agent.toml`, beside that of `config_home`."""

RUST_AGENT_KEY: Final = Path(".usepod-agent/identity.key")
"""The key file of the Rust agent, in the home folder."""

_CREDENTIALS: Final = "$CREDENTIALS_DIRECTORY/"

_POSITION = re.compile(r"\s*\(at (line \d+, column \d+|end of document)\)$")


def config_home(environ: Mapping[str, str]) -> Path:
    """Return `$XDG_CONFIG_HOME/provider-agent`; the default base is `~/.config`."""
    base = environ.get("XDG_CONFIG_HOME", "")
    # The XDG Base Directory Specification requires ignoring a relative path.
    root = Path(base) if base.startswith("/") else home(environ) / ".config"
    return root / "provider-agent"


def default_key_path(environ: Mapping[str, str], *, is_usepod: bool) -> Path:
    """Return the key file of an agent whose operator has configured none.

    Args:
        environ: the environment.
        is_usepod: whether the coordinator speaks the dialect `usepod`. Then the key of the Rust
            agent is used, unless this agent has one already: a new key would be a new provider.
    """
    own = config_home(environ) / "identity.key"
    rust_agent = home(environ) / RUST_AGENT_KEY
    return rust_agent if is_usepod and not _exists(own) and _exists(rust_agent) else own


def home(environ: Mapping[str, str]) -> Path:
    """Return the home directory of the user that runs the agent."""
    text = environ.get("HOME", "")
    if text:
        return Path(text)
    try:
        return Path.home()
    except RuntimeError:  # no HOME, and a numeric user without an entry in /etc/passwd
        return Path("/")


def expand(path: str, environ: Mapping[str, str]) -> Path:
    """Expand a leading `~/` (home directory) or `$CREDENTIALS_DIRECTORY/` (systemd) in a path."""
    if path == "~" or path.startswith("~/"):
        return home(environ) / path[2:]
    if path.startswith(_CREDENTIALS) and (folder := environ.get(_CREDENTIALS[1:-1])):
        return Path(folder) / path[len(_CREDENTIALS) :]
    return Path(path)


def search_path(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the default places of the file; the first that exists is used.

    The third is that of the Rust agent for the Use Pod marketplace.
    """
    return (
        Path("agent.toml"),
        config_home(environ) / "agent.toml",
        config_home(environ).with_name(RUST_AGENT_FOLDER) / "agent.toml",
        Path("/etc/provider-agent/agent.toml"),
    )


def find_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the file named by flag or variable, else the first default that exists, else None."""
    if path is not None:
        return path
    if named := environ.get(CONFIG_VARIABLE):
        return expand(named, environ)
    return next((place for place in search_path(environ) if _exists(place)), None)


def _exists(place: Path) -> bool:
    try:
        # A directory counts, too: container engines create one if the file to mount is missing.
        return place.exists()
    except PermissionError:  # in a folder that this user must not search; `read_file` reports it
        return True
    except OSError:
        return False


def read_file(path: Path) -> dict[str, object]:
    """Parse one TOML file.

    Raises:
        ConfigError: it cannot be read, is too large, or is not TOML (with line and column).
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no such file",
            "write it with `provider-agent init --config PATH`, or name another file",
        ) from error
    except IsADirectoryError as error:
        raise ConfigError(
            f"{path}: is a directory, not a file",
            "name a file; container engines create a directory if the file to mount does not exist",
        ) from error
    except OSError as error:
        advice = "fix its path or permissions, or name another file with --config"
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", advice) from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes", "name the right file")
    try:
        return tomllib.loads(content.decode("utf-8-sig"))  # some editors begin a file with a BOM
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line}: not UTF-8", "save the file as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {_describe_syntax(str(error))}") from error
    except ValueError as error:
        # From `int`, which converts at most `sys.get_int_max_str_digits()` digits.
        raise ConfigError(f"{path}: a number has too many digits", "name the right file") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply", "name the right file") from error


def _describe_syntax(message: str) -> str:
    """Move the position to the front: `line 3, column 7: not valid TOML: …`."""
    position = _POSITION.search(message)
    if position is None:
        return f"not valid TOML: {message}"
    reason = message[: position.start()]
    return f"{position.group(1)}: not valid TOML: {reason}"
