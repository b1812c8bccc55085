"""Loads settings from the text of a file."""

from pathlib import Path

import pytest

from provider_agent.adapters.registry import BUILT_IN_KINDS
from provider_agent.agent.config import ConfigError, LoadedConfig, load_config

MINIMAL = '[coordinator]\nurl = "wss://c.example/provider/connect"\n'
"""The required settings. Keys that a test appends belong to `[coordinator]`."""


def load(
    tmp_path: Path,
    text: str = MINIMAL,
    environ: dict[str, str] | None = None,
    **overrides: object,
) -> LoadedConfig:
    """Load `text` as `agent.toml`.

    An override `section__name` acts as the flag of the key `section.name`.
    """
    path = tmp_path / "agent.toml"
    path.write_text(text)
    flags = {name.replace("__", "."): value for name, value in overrides.items()}
    return load_config(path, {"HOME": "/home/op", **(environ or {})}, flags, BUILT_IN_KINDS)


def load_error(
    tmp_path: Path,
    text: str,
    environ: dict[str, str] | None = None,
    **overrides: object,
) -> str:
    """Return the error message of loading `text`, without the path of the folder."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, environ, **overrides)
    return str(caught.value).replace(str(tmp_path) + "/", "")
