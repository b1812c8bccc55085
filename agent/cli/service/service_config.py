"""The configuration as the service will read it, and whether the service can read it."""

import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from provider_agent.adapters.registry import KnownKinds
from provider_agent.agent.cli.service.host import Host, ServiceError
from provider_agent.agent.cli.service.unit import ENV_FILE, UnitSettings
from provider_agent.agent.config import Config, ConfigError, load_config
from provider_agent.agent.config.files import find_file

SYSTEM_CONFIG: Final = Path("/etc/provider-agent/agent.toml")

_CREDENTIALS: Final = Path("/run/credentials/provider-agent.service")
"""Stands for `$CREDENTIALS_DIRECTORY` while the configuration is read."""

_HIDDEN: Final = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108
"""The folders that `ProtectHome=yes` and `PrivateTmp=yes` hide from a system service."""

_PLAIN_PATH: Final = re.compile(r"/[\w/.@+,=~-]*")
"""A path that has the same meaning in every line of a unit: without spaces, quotes, `%` and `$`."""


class ServiceConfig(Struct, frozen=True):
    """A configuration that was read with the service's own environment.

    Attributes:
        path: the `agent.toml`.
        config: its settings.
        variables: the variables in `agent.env`.
        code_in_file: whether `agent.toml` itself contains the enrollment code.
        key_path: the identity key that `agent.toml` itself names; None: none.
        config_home: the user's own `$XDG_CONFIG_HOME`, by which the agent finds its key; None: the
            default.
    """

    path: Path
    config: Config
    variables: frozenset[str]
    code_in_file: bool
    key_path: Path | None
    config_home: Path | None

    @property
    def key_variables(self) -> tuple[str, ...]:
        """The variables that hold API keys."""
        names = {backend.api_key_env for backend in self.config.backends}
        return tuple(sorted(name for name in names if name))

    @property
    def missing_variables(self) -> tuple[str, ...]:
        """The variables that hold API keys and are not in `agent.env`."""
        return tuple(name for name in self.key_variables if name not in self.variables)

    @property
    def credentials(self) -> tuple[tuple[str, Path], ...]:
        """The name and source of each credential in `agent.toml`; the sources are beside it."""
        files = {path for path in _secret_files(self.config) if path.parent == _CREDENTIALS}
        return tuple((path.name, self.path.with_name(path.name)) for path in sorted(files))

    def settings(self, host: Host) -> UnitSettings:
        """Return the settings of the unit or property list."""
        return UnitSettings(
            command=host.command,
            config=self.path,
            drain_timeout_s=self.config.limits.drain_timeout_s,
            credentials=self.credentials,
            config_home=self.config_home,
        )


def read_service_config(host: Host, path: Path | None, *, user: bool) -> ServiceConfig:
    """Read `agent.toml` and `agent.env` as the service will.

    Args:
        host: the machine.
        path: the file named by `--config`; None: /etc/provider-agent/agent.toml, or for a user's
            service the file that `run` would read.
        user: whether it is a user's own service.

    Raises:
        ServiceError: there is no file.
        ConfigError: the configuration is not valid.
    """
    named = path or (find_file(None, host.environ) if user else SYSTEM_CONFIG)
    if named is None or not host.on_disk(named.absolute()).is_file():
        place = named or "~/.config/provider-agent/agent.toml"
        advice = f"copy your agent.toml there, or write one: provider-agent init --config {place}"
        if path is None and not user:
            advice += "; for a service of your own instead of the system's, add --user"
        raise ServiceError(f"there is no configuration: {place} does not exist", advice)
    found = named.absolute()
    variables = _read_env_file(host, found.with_name(ENV_FILE))
    named_home = host.environ.get("XDG_CONFIG_HOME", "")
    own = named_home if user and named_home.startswith("/") else ""
    environ = {
        "HOME": str(host.home if user else "/"),
        "XDG_CONFIG_HOME": own,
        "CREDENTIALS_DIRECTORY": str(_CREDENTIALS),
        **variables,
    }
    loaded = load_config(host.on_disk(found), environ, {}, KnownKinds())
    in_file = {key for key, origin in loaded.origins.items() if origin == str(host.on_disk(found))}
    return ServiceConfig(
        path=found,
        config=loaded.config,
        variables=frozenset(variables),
        code_in_file="coordinator.enrollment_code" in in_file,
        key_path=loaded.config.identity.key_path if "identity.key_path" in in_file else None,
        config_home=Path(own) if own else None,
    )


def check_paths(host: Host, settings: UnitSettings) -> None:
    """Check that the command exists and that all paths can be written into a unit.

    Raises:
        ServiceError: one is missing or contains an unusual character.
    """
    if not host.on_disk(settings.command).is_file():
        raise ServiceError(
            f"the command {settings.command} does not exist",
            "install provider-agent, for example in a virtual environment at /opt/provider-agent",
        )
    sources = (source for _, source in settings.credentials)
    home = settings.config_home or settings.config.parent
    for path in (settings.command, settings.config, home, *sources):
        if not _PLAIN_PATH.fullmatch(str(path)):
            raise ServiceError(
                f"{path} contains a space or a special character, which a unit cannot hold",
                "move the file to a plain path, such as /etc/provider-agent/agent.toml",
            )


def check_credentials(host: Host, settings: UnitSettings) -> None:
    """Check that the source of each credential exists.

    Raises:
        ServiceError: one does not.
    """
    for name, source in settings.credentials:
        if not host.on_disk(source).is_file():
            raise ServiceError(
                f"agent.toml names the credential {name}, but {source} does not exist",
                f"create it: install -m 600 /dev/null {source}, then write the secret into it",
            )


def check_visible(host: Host, settings: UnitSettings) -> None:
    """Check that the sandbox of a system service does not hide its command or configuration.

    Raises:
        ServiceError: it does.
    """
    for path in (settings.command, host.interpreter):
        if folder := _hidden_by(path):
            raise ServiceError(
                f"a system service cannot use {path}: its sandbox hides {folder}",
                "install provider-agent in /opt/provider-agent with the system's Python, "
                "or use --user",
            )
    if folder := _hidden_by(settings.config):
        raise ServiceError(
            f"a system service cannot read {settings.config}: its sandbox hides {folder}",
            f"copy it to {SYSTEM_CONFIG}, or use --user",
        )


def check_readable(host: Host, found: ServiceConfig) -> None:
    """Check that every user, and so the service's dynamic user, can read `agent.toml`.

    Raises:
        ServiceError: a mode prevents it.
    """
    check_folders(host, found.path)
    mode = stat.S_IMODE(host.on_disk(found.path).stat().st_mode)
    if mode & stat.S_IROTH:
        return
    advice = f"chmod 644 {found.path}"
    if found.code_in_file:
        advice = (
            "move coordinator.enrollment_code into "
            f"{found.path.with_name(ENV_FILE)} as PROVIDER_AGENT_COORDINATOR_ENROLLMENT_CODE=…, "
            f"then: {advice}"
        )
    raise ServiceError(f"the service's own user cannot read {found.path} (mode {mode:04o})", advice)


def check_folders(host: Host, path: Path) -> None:
    """Check that every user can reach a file through its folders.

    Raises:
        ServiceError: a mode prevents it.
    """
    for folder in reversed(path.parents[:-1]):
        mode = stat.S_IMODE(host.on_disk(folder).stat().st_mode)
        if not mode & stat.S_IXOTH:
            raise ServiceError(
                f"the service's own user cannot reach {path}: the mode of {folder} is {mode:04o}",
                f"chmod o+x {folder}",
            )


def _hidden_by(path: Path) -> Path | None:
    return next((folder for folder in _HIDDEN if path.is_relative_to(folder)), None)


def _secret_files(config: Config) -> Iterator[Path]:
    coordinator = config.coordinator
    files = (
        coordinator.token_file,
        coordinator.ca_file,
        coordinator.client_cert_file,
        coordinator.client_key_file,
        *(backend.api_key_file for backend in config.backends),
    )
    return (path for path in files if path is not None)


def _read_env_file(host: Host, path: Path) -> Mapping[str, str]:
    """Return the `NAME=value` lines of an environment file (systemd.exec(5)); {} without a file."""
    try:
        text = host.on_disk(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8", "save the file as UTF-8") from error
    except OSError as error:
        raise ServiceError(
            f"{path} cannot be read: {error.strerror}", "run the command as root"
        ) from error
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if line and line[0] not in "#;")
    return {name.strip(): _unquoted(value.strip()) for name, found, value in pairs if found}


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quoted else value
