"""Reads the operator's files that a connection needs: bearer token and certificates."""

from pathlib import Path
from typing import Final

from provider_agent.agent.config import CoordinatorConfig
from provider_agent.agent.link.tls import UnusableFile, client_context
from provider_agent.protocol.limits import KIB

MAX_TOKEN_BYTES: Final = 16 * KIB
"""More than servers accept as one header."""


def read_token(path: Path) -> str:
    """Return the bearer token that is the whole content of a file.

    Raises:
        UnusableFile: the file cannot be read, or does not hold one token.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise UnusableFile("token_file", path, error) from error
    token = content.decode("ascii", "replace").strip()
    one_line = token.isascii() and token.isprintable()
    if not token or not one_line or len(content) > MAX_TOKEN_BYTES:
        raise UnusableFile("token_file", path, "it does not hold a token")
    return token


def unusable_files(config: CoordinatorConfig) -> list[str]:
    """Return error texts about the configured files that would make a connection fail now."""
    problems = []
    if config.token_file is not None:
        try:
            read_token(config.token_file)
        except UnusableFile as error:
            problems.append(str(error))
    if config.ca_file is not None or config.client_cert_file is not None:
        try:
            client_context(config.ca_file, config.client_cert_file, config.client_key_file)
        except UnusableFile as error:
            problems.append(str(error))
    return problems
