"""The state of the link to the coordinator, as `status` shows it."""

from enum import StrEnum


class LinkState(StrEnum):
    """The state of the link; it is `CONNECTED` only after `Welcome`."""

    STARTING = "starting"
    CONNECTING = "connecting"
    """Dialing, in the handshake, or waiting to dial again."""
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    """Closed on request; the agent does not dial until it is requested again."""
    STOPPED = "stopped"
