"""Secrets of the configuration: where they are, and how settings are shown without them."""

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec

from agent.config.schema import BackendConfig, Config

MASK: Final = "[set]"
"""Stands for a secret that has a value."""


def resolve_api_key(backend: BackendConfig, environ: Mapping[str, str]) -> str | None:
    """The key of a backend from its variable; None when it has none or the variable is empty.

    Spaces and line ends around it are dropped: they come from files and would break the header.
    """
    if backend.api_key_env is None:
        return None
    return environ.get(backend.api_key_env, "").strip() or None


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
