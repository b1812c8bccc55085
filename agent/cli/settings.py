"""The options that find and override the configuration, and what every command does with them."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import click

from provider_agent.adapters.registry import known_kinds
from provider_agent.advised_error import AdvisedError
from provider_agent.agent.config import ConfigError, LoadedConfig, load_config, secret_values
from provider_agent.agent.identity.key import IdentityError
from provider_agent.agent.telemetry.logs import configure_logging

P = ParamSpec("P")
R = TypeVar("R")

EXIT_CONFIG: Final = 2
"""The configuration, the identity or the command line is wrong: starting again will not help."""

NO_BACKEND: Final = AdvisedError(
    "no backend is configured", "add a [[backends]] table for each of your servers"
)

_NO_COORDINATOR: Final = "wss://not-set.invalid"
"""Satisfies the checks of the configuration; nobody dials it."""


class SetupProblem(click.ClickException):
    """Something that the operator has to mend first: one message, no traceback."""

    exit_code = EXIT_CONFIG


config_option = click.option(
    "-c",
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="The agent.toml to read. [default: $PROVIDER_AGENT_CONFIG, ./agent.toml, "
    "~/.config/provider-agent/agent.toml, /etc/provider-agent/agent.toml]",
)
"""The option that names the configuration; its value arrives as `config_path`."""


def with_config(
    command: Callable[Concatenate[LoadedConfig, P], R],
) -> Callable[P, R]:
    """Give a command `--config` and the loaded configuration as its first argument."""
    return _with_settings(command, {})


def with_local_config(
    command: Callable[Concatenate[LoadedConfig, P], R],
) -> Callable[P, R]:
    """As `with_config`, for a command that has no business with the coordinator.

    Its address may be missing, or wrong; whatever stands there, the command sees a placeholder.
    """
    return _with_settings(command, {"coordinator.url": _NO_COORDINATOR})


def _with_settings(
    command: Callable[Concatenate[LoadedConfig, P], R], overrides: dict[str, object]
) -> Callable[P, R]:
    @config_option
    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        path = kwargs.pop("config_path", None)
        loaded = load_settings(path if isinstance(path, Path) else None, overrides)
        # A command says itself what it found; only defects are worth a log line beside that.
        start_logging(loaded, "error")
        return command(loaded, *args, **kwargs)

    return wrapped


def load_settings(path: Path | None, overrides: dict[str, object]) -> LoadedConfig:
    """The configuration.

    Raises:
        SetupProblem: it cannot be used; the message names file, key and reason.
    """
    try:
        return load_config(path, os.environ, overrides, known_kinds())
    except ConfigError as error:
        raise SetupProblem(str(error)) from error


def start_logging(loaded: LoadedConfig, level: str | None = None) -> set[str]:
    """Log to standard error as the configuration says, or from another `level` on.

    Returns:
        The secrets that no line may hold; what is added later counts too.
    """
    observability = loaded.config.observability
    secrets = set(secret_values(loaded.config, os.environ))
    configure_logging(
        level or observability.log_level, observability.log_format, sys.stderr, secrets
    )
    return secrets


def run_async(main: Coroutine[Any, Any, R]) -> R:
    """Run a command's coroutine; on Ctrl-C it is cancelled and the process exits with 130."""
    try:
        return asyncio.run(main)
    except IdentityError as error:
        raise SetupProblem(str(error)) from error
