"""Reads the operator's files that a connection needs: bearer token and certificates."""

from pathlib import Path

from provider_agent.agent.config import CoordinatorConfig
from provider_agent.agent.config.secrets import read_secret_file
from provider_agent.agent.link.tls import UnusableFile, client_context


def read_token(path: Path) -> str:
    """Return the bearer token that is the whole content of a file.

    Raises:
        UnusableFile: the file cannot be read, or does not hold one token.
    """
    token, reason = read_secret_file(path, "token")
    if token is None:
        raise UnusableFile("token_file", path, f"it {reason}")
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
