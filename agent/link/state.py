"""The state of the link to the coordinator, as `status` shows it."""

from enum import StrEnum


class LinkState(StrEnum):
    """The state of the link; it is `CONNECTED` only after `Welcome`."""

    STARTING = "starting"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    STOPPED = "stopped"
