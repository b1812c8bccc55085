"""What the status server needs for commands; it imports the rest at the first request."""

from typing import NamedTuple

from provider_agent.agent.control.commands import Commands
from provider_agent.agent.control.signature import SignatureCheck


class LocalControl(NamedTuple):
    """Checks and carries out commands of the operator."""

    check: SignatureCheck
    commands: Commands
