"""The `--config` option, and what every command does with the configuration."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import click

from provider_agent.adapters.registry import KnownKinds
from provider_agent.advised_error import AdvisedError
from provider_agent.agent.config import ConfigError, LoadedConfig, load_config, secret_values
from provider_agent.agent.identity.key import IdentityError
from provider_agent.agent.telemetry.logs import configure_logging

P = ParamSpec("P")
R = TypeVar("R")

EXIT_CONFIG: Final = 2
"""Configuration, identity or command line is wrong: a restart does not help."""

NO_BACKEND: Final = AdvisedError(
    "no backend is configured", "add a [[backends]] table for each of your servers"
)

INIT_ADVICE: Final = "`provider-agent init` writes the file"
"""What to do if there is no configuration file."""

NO_COORDINATOR: Final = "wss://not-set.invalid"
"""The placeholder for the coordinator's address in commands that do not dial."""


class SetupError(click.ClickException):
    """An error that the operator must correct. Printed as one message, without a traceback."""

    exit_code = EXIT_CONFIG


config_option = click.option(
    "-c",
    "--config",
    "config_path",
    # Loading reports a file that cannot be read, with what to do.
    type=click.Path(path_type=Path, readable=False),
    help="The agent.toml to read. [default: $PROVIDER_AGENT_CONFIG, ./agent.toml, "
    "~/.config/provider-agent/agent.toml, ~/.config/usepod-agent/agent.toml, "
    "/etc/provider-agent/agent.toml]",
)
"""The option that names the configuration file; its parameter is `config_path`."""


def with_config(
    command: Callable[Concatenate[LoadedConfig, P], R],
) -> Callable[P, R]:
    """Add `--config` to a command, and pass it the loaded configuration as first argument."""
    return _with_settings(command, {})


def with_local_config(
    command: Callable[Concatenate[LoadedConfig, P], R],
) -> Callable[P, R]:
    """As `with_config`, for a command that does not use the coordinator.

    The coordinator's address may be missing or wrong; the command receives a placeholder.
    """
    return _with_settings(command, {"coordinator.url": NO_COORDINATOR})


def _with_settings(
    command: Callable[Concatenate[LoadedConfig, P], R], overrides: dict[str, object]
) -> Callable[P, R]:
    @config_option
    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        path = kwargs.pop("config_path", None)
        loaded = load_settings(path if isinstance(path, Path) else None, overrides)
        # Only errors are logged, because a command prints its own results.
        start_logging(loaded, "error")
        try:
            return command(loaded, *args, **kwargs)
        except ConfigError as error:  # an adapter that cannot be created
            raise SetupError(str(error)) from error

    return wrapped


def load_settings(path: Path | None, overrides: dict[str, object]) -> LoadedConfig:
    """Load the configuration.

    Raises:
        SetupError: it is not usable; the message says where and why.
    """
    try:
        return load_config(path, os.environ, overrides, KnownKinds())
    except ConfigError as error:
        raise SetupError(str(error)) from error


def start_logging(loaded: LoadedConfig, level: str | None = None) -> set[str]:
    """Log to standard error, at the level of the configuration or at `level`.

    Returns:
        The secrets that are redacted in every line; more may be added.
    """
    observability = loaded.config.observability
    secrets = set(secret_values(loaded.config, os.environ))
    configure_logging(
        level or observability.log_level, observability.log_format, sys.stderr, secrets
    )
    return secrets


def run_async(main: Coroutine[Any, Any, R]) -> R:
    """Run a command's coroutine; Ctrl-C cancels it and raises `KeyboardInterrupt`.

    Raises:
        SetupError: the agent's key is not usable.
    """
    try:
        return asyncio.run(main)
    except IdentityError as error:
        raise SetupError(str(error)) from error
