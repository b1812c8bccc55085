"""What systemd and launchd have in common for the commands."""

from pathlib import Path
from typing import Protocol

from msgspec import Struct

from provider_agent.agent.cli.service.identity_key import KeyChoice
from provider_agent.agent.cli.service.service_config import ServiceConfig
from provider_agent.agent.cli.service.steps import Step


class Plan(Struct, frozen=True):
    """The steps of a command, and what the operator should know after them.

    Attributes:
        steps: what to do, in order.
        notes: one sentence each.
    """

    steps: tuple[Step, ...]
    notes: tuple[str, ...] = ()


class ServiceManager(Protocol):
    """The service of one machine or of one user.

    Attributes:
        file: the unit or property list.
    """

    file: Path

    def check(self) -> None:
        """Check that the service manager runs and can be reached.

        Raises:
            ServiceError: it does not, or cannot.
        """

    def install(self, found: ServiceConfig, key: KeyChoice, *, start: bool) -> Plan:
        """Return how to install the service for a configuration, with an identity key.

        Raises:
            ServiceError: the service could not run with it.
        """

    def uninstall(self) -> Plan:
        """Return how to stop and remove the service."""

    def start(self) -> Plan:
        """Return how to start it."""

    def stop(self) -> Plan:
        """Return how to stop it; running jobs finish."""

    def restart(self) -> Plan:
        """Return how to restart it; running jobs finish."""

    def status_command(self) -> tuple[str, ...]:
        """Return the command that shows its state, and exits with 0 if it runs."""

    def logs_command(self, lines: int, *, follow: bool) -> tuple[str, ...]:
        """Return the command that shows the last lines of its log.

        Raises:
            ServiceError: there is no log.
        """
