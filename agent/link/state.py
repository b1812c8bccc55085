"""The state of the link to the coordinator, as `status` shows it."""

from enum import StrEnum


class LinkState(StrEnum):
    """Where the link stands. An open socket is not enough for `CONNECTED`; it takes a `Welcome`."""

    STARTING = "starting"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    STOPPED = "stopped"
