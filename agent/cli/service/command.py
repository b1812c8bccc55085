"""`provider-agent service`."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from provider_agent.agent.cli.service.host import SERVICE, Host, ServiceError
from provider_agent.agent.cli.service.identity_key import KeyChoice
from provider_agent.agent.cli.service.launchd import Launchd
from provider_agent.agent.cli.service.service_config import read_service_config
from provider_agent.agent.cli.service.service_manager import Plan, ServiceManager
from provider_agent.agent.cli.service.steps import Run, StepFailed
from provider_agent.agent.cli.service.systemd import Systemd
from provider_agent.agent.cli.settings import SetupError
from provider_agent.agent.config import ConfigError

_MANAGERS: Final[dict[str, type[Systemd] | type[Launchd]]] = {
    "linux": Systemd,
    "darwin": Launchd,
}

_user_option = click.option(
    "--user", is_flag=True, help="Your own service instead of the system's; needs no root."
)
_print_option = click.option(
    "--print", "only_print", is_flag=True, help="Print what would be written and run; do nothing."
)


@click.group(short_help="Run the agent as a service of systemd or launchd.")
def service() -> None:
    """Install and control the agent as a service of systemd (Linux) or launchd (macOS).

    Without --user it is a service of the system with a user of its own, and needs root.
    """


@service.command(short_help="Write the unit, enable and start it.")
@click.option(
    "-c",
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="The agent.toml of the service. [default: /etc/provider-agent/agent.toml; with --user "
    "the file that `run` would read]",
)
@click.option("--no-start", is_flag=True, help="Enable the service, but do not start it.")
@click.option(
    "--key",
    "key_path",
    type=click.Path(path_type=Path),
    help="Copy this identity key, so that the system service stays the same agent.",
)
@click.option("--new-key", is_flag=True, help="Let the service create its own key.")
@_user_option
@_print_option
def install(
    config_path: Path | None,
    no_start: bool,
    key_path: Path | None,
    new_key: bool,
    user: bool,
    only_print: bool,
) -> None:
    """Write the unit or property list, enable the service and start it.

    Reads agent.toml for the time that a drain may take, and for the credentials that the service
    needs. Run it again after a change of limits.drain_timeout_s or of a credential's name.
    """
    if user and (key_path or new_key):
        raise click.UsageError("--user uses your own identity key; omit --key and --new-key")
    if key_path and new_key:
        raise click.UsageError("--key and --new-key exclude each other")

    def plan(host: Host, manager: ServiceManager) -> Plan:
        found = read_service_config(host, config_path, user=user)
        key = KeyChoice(key_path, new_key)
        return manager.install(found, key, start=not no_start)

    _carry_out(plan, user=user, only_print=only_print, installed=False)


@service.command(short_help="Stop the service and remove its unit.")
@_user_option
@_print_option
def uninstall(user: bool, only_print: bool) -> None:
    """Stop the service after its running jobs, and remove its unit or property list.

    The configuration and the identity key stay; their places are printed.
    """
    _carry_out(lambda _, manager: manager.uninstall(), user=user, only_print=only_print)


@service.command(short_help="Start the service.")
@_user_option
@_print_option
def start(user: bool, only_print: bool) -> None:
    """Start the service."""
    _carry_out(lambda _, manager: manager.start(), user=user, only_print=only_print)


@service.command(short_help="Stop the service; running jobs finish.")
@_user_option
@_print_option
def stop(user: bool, only_print: bool) -> None:
    """Stop the service; running jobs finish, for at most limits.drain_timeout_s."""
    _carry_out(lambda _, manager: manager.stop(), user=user, only_print=only_print)


@service.command(short_help="Restart the service; running jobs finish.")
@_user_option
@_print_option
def restart(user: bool, only_print: bool) -> None:
    """Restart the service; running jobs finish first, for at most limits.drain_timeout_s."""
    _carry_out(lambda _, manager: manager.restart(), user=user, only_print=only_print)


@service.command(short_help="Show whether the service runs.")
@_user_option
def status(user: bool) -> None:
    """Show the service manager's state of the service; exit with 0 if it runs, else with 1.

    `provider-agent status` shows the state of the agent itself.
    """
    host = _host()
    manager = _manager(host, user=user, installed=True)
    sys.exit(1 if _show(host, manager.status_command()) else 0)


@service.command(short_help="Show the log of the service.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=100, help="How many lines. [default: 100]"
)
@click.option("-f", "--follow", is_flag=True, help="Continue with new lines until Ctrl-C.")
@_user_option
def logs(lines: int, follow: bool, user: bool) -> None:
    """Show the last lines of the service's log."""
    host = _host()
    manager = _manager(host, user=user, installed=False)
    try:
        command = manager.logs_command(lines, follow=follow)
    except ServiceError as error:
        raise SetupError(str(error)) from error
    sys.exit(1 if _show(host, command) else 0)


def _carry_out(
    plan: Callable[[Host, ServiceManager], Plan],
    *,
    user: bool,
    only_print: bool,
    installed: bool = True,
) -> None:
    """Compute the steps of a command; print them, or carry them out."""
    host = _host()
    manager = _manager(host, user=user, installed=installed, dry=only_print, changes=True)
    try:
        todo = plan(host, manager)
    except (ServiceError, ConfigError) as error:
        raise SetupError(str(error)) from error
    except OSError as error:
        raise SetupError(f"{error.filename} cannot be read: {error.strerror}") from error
    for step in todo.steps:
        if only_print:
            click.echo(step.describe())
            continue
        if isinstance(step, Run):  # announced before, because a stop waits for the running jobs
            click.echo(f"run {step.describe()}", nl=False)
        try:
            done = step.perform(host)
        except StepFailed as error:
            option = " --user" if user else ""
            advice = f"its message is above, and `{SERVICE} service logs{option}` may say more"
            raise click.ClickException(f"{error}; {advice}") from error
        except OSError as error:
            place = error.filename or getattr(step, "path", "the command")
            raise click.ClickException(f"{place}: {error.strerror}") from error
        except LookupError as error:
            raise click.ClickException(f"the owner was not changed: {error}") from error
        if done:
            click.echo(done)
    for note in todo.notes:
        click.echo(f"# {note}" if only_print else note)


def _host() -> Host:
    context = click.get_current_context()
    host = context.find_object(Host)
    if host is not None:
        return host
    if sys.platform not in _MANAGERS:
        raise SetupError(_unsupported(sys.platform))
    return Host.current()


def _manager(
    host: Host, *, user: bool, installed: bool, dry: bool = False, changes: bool = False
) -> ServiceManager:
    """Return the service manager of this machine, after the checks that a command needs.

    Args:
        host: the machine.
        user: whether it is a user's own service.
        installed: whether the command needs an installed service.
        dry: whether it only prints, which needs neither a running service manager nor root.
        changes: whether it changes the service.
    """
    if host.platform not in _MANAGERS:
        raise SetupError(_unsupported(host.platform))
    manager = _MANAGERS[host.platform](host, user=user)
    try:
        if not dry:
            manager.check()
            if changes:
                host.check_permission(user=user)
        if installed and not host.on_disk(manager.file).exists():
            option = " --user" if user else ""
            raise ServiceError(
                f"the service is not installed: {manager.file} does not exist",
                f"`{SERVICE} service install{option}` installs it",
            )
    except ServiceError as error:
        raise SetupError(str(error)) from error
    return manager


def _show(host: Host, command: tuple[str, ...]) -> int:
    try:
        return host.run(command)
    except OSError as error:
        raise SetupError(f"the command {command[0]} cannot be started: {error.strerror}") from error


def _unsupported(platform: str) -> str:
    return (
        f"services are supported with systemd (Linux) and launchd (macOS), not on {platform}; "
        "let your own supervisor run `provider-agent run`"
    )
