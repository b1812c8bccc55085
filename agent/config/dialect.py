"""Which protocol the coordinator at an address speaks."""

from typing import Final
from urllib.parse import urlsplit

from provider_agent.agent.config.schema import CoordinatorConfig
from provider_agent.protocol.limits import CONNECT_PATH, SUBPROTOCOL

USEPOD: Final = "usepod"
"""The JSON dialect of the Use Pod marketplace."""

_USEPOD_HOST: Final = "api.usepod.ai"


def dialect_of(config: CoordinatorConfig, url: str) -> str:
    """Return the dialect to speak with the coordinator at one of the configured addresses.

    `[coordinator] dialect` decides, or else the address.
    """
    if config.dialect is not None:
        return config.dialect
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    return USEPOD if (host, parts.path) == (_USEPOD_HOST, CONNECT_PATH) else SUBPROTOCOL
