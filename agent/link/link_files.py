"""The operator's files that a connection to the coordinator is made with. Read at every attempt."""

from pathlib import Path
from typing import Final

from provider_agent.agent.config import CoordinatorConfig
from provider_agent.agent.link.tls import UnusableFile, client_context
from provider_agent.protocol.limits import KIB

MAX_TOKEN_BYTES: Final = 16 * KIB


def read_token(path: Path) -> str:
    """The bearer token in a file, which holds nothing else.

    Raises:
        UnusableFile: it cannot be read, or holds no token.
    """
    try:
        with path.open("rb") as file:
            token = file.read(MAX_TOKEN_BYTES).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise UnusableFile("token_file", path, error) from error
    if not token or not token.isprintable():
        raise UnusableFile("token_file", path, "it does not hold what it should")
    return token


def unusable_files(config: CoordinatorConfig) -> list[str]:
    """What would keep the next connection from being made now; one text per cause."""
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
