"""Finding and reading `agent.toml`."""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from provider_agent.agent.config.errors import ConfigError
from provider_agent.agent.config.flags import CONFIG_VARIABLE

MAX_FILE_BYTES: Final = 1024 * 1024
"""A thousand priced models take about 100 KB; more is the wrong file."""

_CREDENTIALS: Final = "$CREDENTIALS_DIRECTORY/"

_POSITION = re.compile(r"\s*\(at (line \d+, column \d+|end of document)\)$")


def config_home(environ: Mapping[str, str]) -> Path:
    """`$XDG_CONFIG_HOME/provider-agent`, by default below `~/.config` (XDG base directories)."""
    base = environ.get("XDG_CONFIG_HOME", "")
    # The specification says to ignore a relative path.
    root = Path(base) if base.startswith("/") else home(environ) / ".config"
    return root / "provider-agent"


def home(environ: Mapping[str, str]) -> Path:
    """The operator's home directory."""
    text = environ.get("HOME", "")
    return Path(text) if text else Path.home()


def expand(path: str, environ: Mapping[str, str]) -> Path:
    """A path as the operator wrote it, with what it begins with filled in.

    `~/` is the home directory, `$CREDENTIALS_DIRECTORY/` where systemd puts a service's secrets.
    """
    if path == "~" or path.startswith("~/"):
        return home(environ) / path[2:]
    if path.startswith(_CREDENTIALS) and (folder := environ.get(_CREDENTIALS[1:-1])):
        return Path(folder) / path[len(_CREDENTIALS) :]
    return Path(path)


def search_path(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where a file is looked for when none is named; the first that exists is used."""
    return (
        Path("agent.toml"),
        config_home(environ) / "agent.toml",
        Path("/etc/provider-agent/agent.toml"),
    )


def find_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read: the one named by flag or variable, else the first that exists, or None."""
    if path is not None:
        return path
    if named := environ.get(CONFIG_VARIABLE):
        return expand(named, environ)
    return next((place for place in search_path(environ) if place.is_file()), None)


def read_file(path: Path) -> dict[str, object]:
    """The tables of one TOML file.

    Raises:
        ConfigError: it cannot be read, is too big, or is not TOML (with line and column).
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: no such file", "copy agent.example.toml there, or name another with --config"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes", "is it the right file?")
    try:
        return tomllib.loads(content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line}: not UTF-8", "save the file as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {_describe_syntax(str(error))}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply to be a configuration") from error


def _describe_syntax(message: str) -> str:
    """The parser's message with its position in front: `line 3, column 7: not valid TOML: …`."""
    position = _POSITION.search(message)
    if position is None:
        return f"not valid TOML: {message}"
    reason = message[: position.start()]
    return f"{position.group(1)}: not valid TOML: {reason}"
