"""Which protocol the coordinator at an address speaks."""

from typing import Final
from urllib.parse import urlsplit

from provider_agent.agent.config.schema import CoordinatorConfig
from provider_agent.protocol.limits import CONNECT_PATH, SUBPROTOCOL, USEPOD_DIALECT

USEPOD: Final = USEPOD_DIALECT
"""The JSON dialect of the Use Pod marketplace."""

USEPOD_HOST: Final = "api.usepod.ai"
"""The host of the marketplace's coordinator."""


def dialect_of(config: CoordinatorConfig, url: str) -> str:
    """Return the dialect to speak with the coordinator at one of the configured addresses.

    `[coordinator] dialect` decides, or else the address.
    """
    if config.dialect is not None:
        return config.dialect
    return USEPOD if is_usepod_address(url) else SUBPROTOCOL


def dialect_reason(config: CoordinatorConfig) -> str:
    """Return in words what decides about the dialect."""
    return "by its address" if config.dialect is None else "as configured"


def is_usepod_address(url: str) -> bool:
    """Whether an address is that of the marketplace. Any text is accepted."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
    except ValueError:
        return False
    return (host, parts.path) == (USEPOD_HOST, CONNECT_PATH)
