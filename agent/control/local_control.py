"""What the status server needs for commands; it imports the rest at the first request."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from provider_agent.agent.availability.hours import ServingHours
from provider_agent.agent.control.commands import Commands
from provider_agent.agent.control.pause_store import PauseStore
from provider_agent.agent.control.signature import SignatureCheck


class LocalControl(NamedTuple):
    """Checks and carries out commands of the operator."""

    check: SignatureCheck
    commands: Commands


def local_control(
    public_key: bytes,
    hours: ServingHours,
    store: PauseStore,
    *,
    backends: Callable[[], Mapping[str, str]],
    in_flight: Callable[[], int],
    stopping: Callable[[], bool],
    wall_clock: Callable[[], float] = time.time,
) -> LocalControl:
    """Return the control of an agent; the arguments are those of its parts."""
    commands = Commands(
        hours,
        store,
        backends=backends,
        in_flight=in_flight,
        stopping=stopping,
        wall_clock=wall_clock,
    )
    return LocalControl(SignatureCheck(public_key, wall_clock), commands)
