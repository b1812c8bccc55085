"""The service of launchd: a daemon of the system, or an agent of the user (`--user`).

Commands: launchctl(1), whose `bootstrap` loads and starts a job and whose `bootout` stops it with
SIGTERM and unloads it. sysadminctl creates the service's user; it requires an id from 200 to 400.
"""

import plistlib
from pathlib import Path
from typing import Final

from provider_agent.agent.cli.service.host import SERVICE, Host, ServiceError
from provider_agent.agent.cli.service.identity_key import KeyChoice, key_steps
from provider_agent.agent.cli.service.key_place import LAUNCHD_STATE, SERVICE_KEYS
from provider_agent.agent.cli.service.property_list import SERVICE_USER, property_list
from provider_agent.agent.cli.service.service_config import (
    SYSTEM_CONFIG,
    ServiceConfig,
    check_folders,
    check_paths,
)
from provider_agent.agent.cli.service.service_manager import Plan
from provider_agent.agent.cli.service.steps import (
    ChangeOwner,
    MakeFolder,
    RemoveFile,
    Run,
    Step,
    WriteFile,
)
from provider_agent.agent.config.files import config_home

LOGS: Final = Path("/Library/Logs/provider-agent")

IN_PROGRESS: Final = 36
"""EINPROGRESS, the exit code of `launchctl bootout` while the job still stops."""

_ROLE_IDS: Final = range(400, 199, -1)
"""The ids of role accounts; Apple's own start at the low end."""


class Launchd:
    """Plans the commands for `launchctl`.

    Attributes:
        file: the property list.
    """

    def __init__(self, host: Host, *, user: bool) -> None:
        self._host = host
        self._user = user
        self._domain = f"gui/{host.uid}" if user else "system"
        self._target = f"{self._domain}/{SERVICE}"
        folder = "Library/LaunchAgents" if user else "Library/LaunchDaemons"
        self.file = (host.home if user else Path("/")) / folder / f"{SERVICE}.plist"
        self._log = (host.home / "Library/Logs" if user else LOGS) / f"{SERVICE}.log"

    def check(self) -> None:
        """Check that launchctl is there, and that `--user` is not used with sudo.

        Raises:
            ServiceError: it is not.
        """
        if self._host.find("launchctl") is None:
            raise ServiceError("the command launchctl is missing", "add /bin to PATH")
        if self._user and self._host.uid == 0:
            raise ServiceError("--user was used with sudo", "run the command without sudo")

    def install(self, found: ServiceConfig, key: KeyChoice, *, start: bool) -> Plan:
        """Return how to create the service's user and folders, and to load the property list.

        Raises:
            ServiceError: the service could not run with this configuration.
        """
        host, settings = self._host, found.settings(self._host)
        check_paths(host, settings)
        if settings.credentials:
            raise ServiceError(
                "agent.toml uses $CREDENTIALS_DIRECTORY, which only systemd sets",
                "write the path of the file instead",
            )
        if names := found.key_variables:
            raise ServiceError(
                f"agent.toml takes an API key from the variable {names[0]}, which launchd could "
                "only read from the property list, where every user sees it",
                "use api_key_file",
            )
        steps: list[Step] = []
        if not self._user:
            check_folders(host, found.path)
            copies = key_steps(host, found, SERVICE_KEYS["darwin"], key)
            steps += (*self._user_and_folders(found), *copies)
        text = property_list(settings, self._log, None if self._user else LAUNCHD_STATE)
        steps.append(WriteFile(self.file, text))
        if host.on_disk(self.file).exists():
            option = " --user" if self._user else ""
            note = (
                "the service was installed before: "
                f"`service stop{option}` and `service start{option}` apply the new property list"
            )
            return Plan(tuple(steps), (note,))
        if start:
            steps += self.start().steps
        return Plan(tuple(steps))

    def _user_and_folders(self, found: ServiceConfig) -> list[Step]:
        steps: list[Step] = []
        if not self._host.has_user(SERVICE_USER):
            free = next((one for one in _ROLE_IDS if not self._host.has_user(one)), None)
            if free is None:
                raise ServiceError(
                    "no user id from 200 to 400 is free for the service's user", "use --user"
                )
            account = ("-fullName", SERVICE, "-UID", str(free), "-roleAccount")
            steps.append(Run(("sysadminctl", "-addUser", SERVICE_USER, *account)))
        steps += [
            MakeFolder(LAUNCHD_STATE, 0o700, SERVICE_USER),
            MakeFolder(LOGS, 0o755, SERVICE_USER),
        ]
        if not self._host.on_disk(found.path).stat().st_mode & 0o004:
            steps.append(ChangeOwner(found.path, SERVICE_USER))
        return steps

    def uninstall(self) -> Plan:
        """Return how to stop the service, remove its property list, and what stays."""
        config, key = self._kept()
        notes = [f"kept the configuration {config}", f"kept the identity key {key}"]
        if not self._user:
            notes.append(
                f"kept the user {SERVICE_USER}, which owns the key, and the log {self._log}"
            )
        return Plan((*self._bootout(), RemoveFile(self.file)), tuple(notes))

    def _kept(self) -> tuple[str, str]:
        job = plistlib.loads(self._host.on_disk(self.file).read_bytes())
        config = job.get("ProgramArguments", ["", str(SYSTEM_CONFIG)])[-1]
        folder = (
            config_home({"HOME": str(self._host.home), **self._host.environ})
            if self._user
            else LAUNCHD_STATE
        )
        return str(config), str(folder / "identity.key")

    def start(self) -> Plan:
        """Return how to start the service, loaded or not."""
        if self._is_loaded():
            return Plan((Run(("launchctl", "kickstart", self._target)),))
        return Plan(
            (
                Run(("launchctl", "enable", self._target)),
                Run(("launchctl", "bootstrap", self._domain, str(self.file))),
            )
        )

    def stop(self) -> Plan:
        """Return how to stop it; running jobs finish, after the command has ended."""
        steps = self._bootout()
        return Plan(steps, () if steps else ("the service does not run",))

    def restart(self) -> Plan:
        """Return how to restart it: SIGTERM, after whose drain `KeepAlive` starts it again."""
        if self._is_loaded():
            return Plan((Run(("launchctl", "kill", "SIGTERM", self._target)),))
        return self.start()

    def _bootout(self) -> tuple[Step, ...]:
        if not self._is_loaded():
            return ()
        return (Run(("launchctl", "bootout", self._target), accepted=(0, IN_PROGRESS)),)

    def _is_loaded(self) -> bool:
        return self._host.succeeds(("launchctl", "print", self._target))

    def status_command(self) -> tuple[str, ...]:
        """Return the command that shows the state of the job."""
        return ("launchctl", "print", self._target)

    def logs_command(self, lines: int, *, follow: bool) -> tuple[str, ...]:
        """Return the command that shows the end of the log file.

        Raises:
            ServiceError: there is no log file.
        """
        if not self._host.on_disk(self._log).exists():
            raise ServiceError(f"there is no log: {self._log} does not exist", "start the service")
        command = ("tail", "-n", str(lines))
        return (*command, "-F", str(self._log)) if follow else (*command, str(self._log))
