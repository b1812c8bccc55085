"""Resolves the secrets of the configuration, and masks them where settings are displayed."""

from codecs import BOM_UTF8
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from provider_agent.agent.config.addresses import MASK, shown_url
from provider_agent.agent.config.schema import BackendConfig, Config

MAX_SECRET_BYTES: Final = 16 * 1024
"""More than servers accept as one header, so a longer file holds neither a key nor a token."""


def resolve_api_key(backend: BackendConfig, environ: Mapping[str, str]) -> str | None:
    """Return the key of a backend from its file or variable; None if it has no usable key.

    Surrounding whitespace, such as the last line end of a file, is removed: it would break the
    header.
    """
    if backend.api_key_file is not None:
        return read_secret_file(backend.api_key_file, "key")[0]
    if backend.api_key_env is not None:
        return environ.get(backend.api_key_env, "").strip() or None
    return None


def missing_key(backend: BackendConfig) -> str:
    """Return why `resolve_api_key` found no key; never contains the content of a key file."""
    if backend.api_key_file is not None:
        reason = read_secret_file(backend.api_key_file, "key")[1]
        return f"the file {backend.api_key_file} (api_key_file) {reason}"
    return f"the environment variable {backend.api_key_env} (api_key_env) is not set, or is empty"


def read_secret_file(path: Path, noun: str) -> tuple[str | None, str]:
    """Return the secret that is the whole content of a file, or None and the reason.

    Args:
        path: the file.
        noun: what the file should hold, for the reason. The reason contains nothing of the file.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        return None, f"cannot be read: {error.strerror}"
    # Some editors begin a file with a byte order mark.
    text = content.removeprefix(BOM_UTF8).decode("latin-1").strip()
    if not text:
        return None, "is empty"
    if len(content) > MAX_SECRET_BYTES or not (text.isascii() and text.isprintable()):
        return None, f"does not hold a {noun}: one line of plain text is expected"
    return text, ""


def secret_values(config: Config, environ: Mapping[str, str]) -> frozenset[str]:
    """Return every secret in the settings or in the variables and files they name, for redaction.

    Every dial reads `coordinator.token_file` again. A token that is written to it later is included
    after the next reload; until then, patterns such as `Bearer …` redact it.
    """
    values = {resolve_api_key(backend, environ) for backend in config.backends}
    if config.coordinator.token_file is not None:
        values.add(read_secret_file(config.coordinator.token_file, "token")[0])
    values.add(config.coordinator.enrollment_code)
    values.add(_password(config.coordinator.proxy))
    return frozenset(value for value in values if value)


def masked(config: Config) -> dict[str, object]:
    """Return the settings as plain values for `config show`, with secrets masked."""
    plain: dict[str, object] = msgspec.to_builtins(config, enc_hook=str)
    coordinator = plain["coordinator"]
    if isinstance(coordinator, dict):
        if config.coordinator.enrollment_code:
            coordinator["enrollment_code"] = MASK
        coordinator["url"] = shown_url(config.coordinator.url)
        coordinator["fallback_urls"] = tuple(map(shown_url, config.coordinator.fallback_urls))
        if config.coordinator.proxy:
            coordinator["proxy"] = shown_url(config.coordinator.proxy)
    return plain


def _password(url: str | None) -> str | None:
    return urlsplit(url).password if url else None
