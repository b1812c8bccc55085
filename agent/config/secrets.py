"""Secrets of the configuration: where they are, and how settings are shown without them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from provider_agent.agent.config.schema import BackendConfig, Config

MASK: Final = "[set]"
"""Stands for a secret that has a value."""


MAX_KEY_BYTES: Final = 16 * 1024
"""As much as a header may be long; a bigger file is the wrong one."""


def resolve_api_key(backend: BackendConfig, environ: Mapping[str, str]) -> str | None:
    """The key of a backend from its variable or its file; None when it names none or has none.

    Spaces and line ends around it are dropped: they come from files and would break the header.
    """
    if backend.api_key_file is not None:
        return _key_in(backend.api_key_file)[0]
    if backend.api_key_env is not None:
        return environ.get(backend.api_key_env, "").strip() or None
    return None


def missing_key(backend: BackendConfig) -> str:
    """Why `resolve_api_key` found no key where the backend names one; never the content."""
    if backend.api_key_file is not None:
        return f"the file {backend.api_key_file} (api_key_file) {_key_in(backend.api_key_file)[1]}"
    return f"the environment variable {backend.api_key_env} (api_key_env) is not set"


def _key_in(path: Path) -> tuple[str | None, str]:
    """The key in a file, else why there is none."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        return None, f"cannot be read: {error.strerror}"
    text = content.decode("latin-1").strip()
    if not text:
        return None, "is empty"
    if len(content) > MAX_KEY_BYTES or not (text.isascii() and text.isprintable()):
        return None, "does not hold a key: one line of plain text is expected"
    return text, ""


def secret_values(config: Config, environ: Mapping[str, str]) -> frozenset[str]:
    """Every secret that these settings hold or name, for redaction.

    The content of `coordinator.token_file` is not among them: whoever reads that file adds it.
    """
    values = {resolve_api_key(backend, environ) for backend in config.backends}
    values.add(config.coordinator.enrollment_code)
    values.add(_password(config.coordinator.proxy))
    return frozenset(value for value in values if value)


def masked(config: Config) -> dict[str, object]:
    """The settings as plain values for `config show`, without any secret."""
    plain: dict[str, object] = msgspec.to_builtins(config, enc_hook=str)
    coordinator = plain["coordinator"]
    if isinstance(coordinator, dict):
        if config.coordinator.enrollment_code:
            coordinator["enrollment_code"] = MASK
        if _password(config.coordinator.proxy):
            coordinator["proxy"] = _without_user(config.coordinator.proxy or "")
    return plain


def _password(url: str | None) -> str | None:
    return urlsplit(url).password if url else None


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{MASK}@{parts.netloc.rpartition('@')[2]}").geturl()
