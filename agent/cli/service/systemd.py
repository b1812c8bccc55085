"""The service of systemd: of the system, or of the user's own instance (`systemctl --user`).

Commands: systemctl(1), journalctl(1). Whether systemd runs: sd_booted(3).
"""

import re
from pathlib import Path
from typing import Final

from provider_agent.agent.cli.service.host import SERVICE, Host, ServiceError
from provider_agent.agent.cli.service.identity_key import KeyChoice, key_steps
from provider_agent.agent.cli.service.key_place import SERVICE_KEYS
from provider_agent.agent.cli.service.service_config import (
    SYSTEM_CONFIG,
    ServiceConfig,
    check_credentials,
    check_paths,
    check_readable,
    check_visible,
)
from provider_agent.agent.cli.service.service_manager import Plan
from provider_agent.agent.cli.service.steps import RemoveFile, Run, Step, WriteFile
from provider_agent.agent.cli.service.unit import (
    ENV_FILE,
    system_unit,
    user_unit,
)
from provider_agent.agent.config.files import config_home

UNIT: Final = f"{SERVICE}.service"

_KEY: Final = SERVICE_KEYS["linux"]

_ENV_TEXT: Final = """\
# Environment variables of the service, one NAME=value per line, such as API keys.
# Keep the mode 0600. `provider-agent service restart` applies a change.
"""


class Systemd:
    """Plans the commands for `systemctl`.

    Attributes:
        file: the unit.
    """

    def __init__(self, host: Host, *, user: bool) -> None:
        self._host = host
        self._user = user
        self._systemctl = ("systemctl", "--user") if user else ("systemctl",)
        folder = host.home / ".config/systemd/user" if user else Path("/etc/systemd/system")
        self.file = folder / UNIT

    def check(self) -> None:
        """Check that systemd manages this machine, and with `--user` this user's session.

        Raises:
            ServiceError: it does not.
        """
        host = self._host
        if not host.on_disk(Path("/run/systemd/system")).is_dir():
            raise ServiceError(
                "systemd does not manage this machine (a container?)",
                "let your container engine or supervisor run `provider-agent run`",
            )
        if host.find("systemctl") is None:
            raise ServiceError("the command systemctl is missing", "install the package systemd")
        if self._user:
            self._check_session()

    def _check_session(self) -> None:
        host = self._host
        if host.uid == 0 and host.environ.get("SUDO_USER"):
            raise ServiceError("--user was used with sudo", "run the command without sudo")
        runtime = host.environ.get("XDG_RUNTIME_DIR", "")
        if not runtime.startswith("/") or not host.on_disk(Path(runtime) / "systemd").is_dir():
            raise ServiceError(
                f"there is no systemd session of the user {host.user}",
                f"log in as {host.user} on a console or by ssh instead of su or sudo; "
                f"without logins: sudo loginctl enable-linger {host.user}",
            )

    def install(self, found: ServiceConfig, key: KeyChoice, *, start: bool) -> Plan:
        """Return how to write the unit, and to enable and start it.

        Raises:
            ServiceError: the service could not run with this configuration.
        """
        host, settings = self._host, found.settings(self._host)
        check_paths(host, settings)
        check_credentials(host, settings)
        steps: list[Step] = []
        if not self._user:
            check_visible(host, settings)
            check_readable(host, found)
            steps += key_steps(host, found, _KEY, key)
        text = user_unit(settings) if self._user else system_unit(settings)
        installed = host.on_disk(self.file)
        replaced = installed.is_file() and installed.read_text(encoding="utf-8") != text
        enable = ("enable", "--now", UNIT) if start else ("enable", UNIT)
        return Plan(
            (
                *steps,
                WriteFile(self.file, text),
                WriteFile(settings.env_file, _ENV_TEXT, mode=0o600, keep=True),
                self._run("daemon-reload"),
                self._run(*enable),
            ),
            tuple(self._notes(found, replaced=replaced)),
        )

    def _notes(self, found: ServiceConfig, *, replaced: bool) -> list[str]:
        option = " --user" if self._user else ""
        notes = [
            f"set {name} in {found.path.with_name(ENV_FILE)}, then restart the service"
            for name in found.missing_variables
        ]
        if found.code_in_file and not self._user:
            notes.append(f"every user can read the enrollment code in {found.path}")
        if replaced:
            notes.append(f"a running agent uses the new unit after `service restart{option}`")
        linger = Path("/var/lib/systemd/linger") / self._host.user
        if self._user and not self._host.on_disk(linger).exists():
            notes.append(
                "the service ends with your last login; to keep it running: "
                f"sudo loginctl enable-linger {self._host.user}"
            )
        return notes

    def uninstall(self) -> Plan:
        """Return how to stop the service, remove its unit, and what stays."""
        config = _config_of(self._host.on_disk(self.file).read_text(encoding="utf-8"))
        key = (
            config_home({"HOME": str(self._host.home), **self._host.environ}) / "identity.key"
            if self._user
            else _KEY
        )
        return Plan(
            (
                self._run("disable", "--now", UNIT),
                RemoveFile(self.file),
                self._run("daemon-reload"),
            ),
            (
                f"kept the configuration {config}, and {config.with_name(ENV_FILE)}",
                f"kept the identity key {key} (or where identity.key_path names it)",
            ),
        )

    def start(self) -> Plan:
        """Return how to start the service."""
        return Plan((self._run("start", UNIT),))

    def stop(self) -> Plan:
        """Return how to stop it; systemctl waits until running jobs have ended."""
        return Plan((self._run("stop", UNIT),))

    def restart(self) -> Plan:
        """Return how to restart it; systemctl waits until running jobs have ended."""
        return Plan((self._run("restart", UNIT),))

    def status_command(self) -> tuple[str, ...]:
        """Return the command that shows the state of the unit."""
        return (*self._systemctl, "--no-pager", "status", UNIT)

    def logs_command(self, lines: int, *, follow: bool) -> tuple[str, ...]:
        """Return the command that shows the last lines of the journal.

        Raises:
            ServiceError: journalctl is missing.
        """
        if self._host.find("journalctl") is None:
            raise ServiceError("the command journalctl is missing", "install the package systemd")
        unit = "--user-unit" if self._user else "--unit"
        command = ("journalctl", "--no-pager", unit, UNIT, "--lines", str(lines))
        return (*command, "--follow") if follow else command

    def _run(self, *arguments: str) -> Run:
        return Run((*self._systemctl, *arguments))


def _config_of(unit: str) -> Path:
    found = re.search(r"^ExecStart=.* --config (\S+)$", unit, re.MULTILINE)
    return Path(found[1]) if found else SYSTEM_CONFIG
