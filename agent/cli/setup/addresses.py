"""The addresses of a marketplace: of its coordinator, of its HTTP API, and of its pairing page."""

from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from provider_agent.agent.config.addresses import coordinator_url, is_loopback
from provider_agent.agent.config.dialect import USEPOD_HOST
from provider_agent.agent.config.errors import InvalidValue
from provider_agent.protocol.limits import CONNECT_PATH

USEPOD_URL: Final = f"https://{USEPOD_HOST}"
"""The address of the Use Pod marketplace's HTTP API."""

_USEPOD_PAGE: Final = "https://usepod.ai/host/pair"
_WEBSOCKET_SCHEMES: Final = {"https": "wss", "http": "ws"}
_HTTP_SCHEMES: Final = {"wss": "https", "ws": "http"}


class Marketplace(Struct, frozen=True):
    """The addresses of one marketplace.

    Attributes:
        api_url: what precedes the paths of its HTTP API; without a slash at its end.
        connect_url: the address that the agent dials.
        page_url: the page on which the operator enters the code.
    """

    api_url: str
    connect_url: str
    page_url: str


def marketplace_at(text: str, *, allow_insecure: bool) -> Marketplace:
    """Return the addresses of a marketplace.

    Args:
        text: the address of its HTTP API, such as `https://api.usepod.ai`, or the one that the
            agent dials, such as `wss://api.usepod.ai/provider/connect`.
        allow_insecure: whether an unencrypted connection to another machine is allowed.

    Raises:
        ValueError: it is not valid; the reason is that of `coordinator.url`.
    """
    scheme, separator, rest = text.strip().partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in {*_WEBSOCKET_SCHEMES, *_HTTP_SCHEMES}:
        raise InvalidValue("not an address", f"write it with its scheme, such as {USEPOD_URL}")
    if "?" in rest or "#" in rest:
        raise InvalidValue('an address must not contain "?" or "#"', "remove that part")
    base = rest.rstrip("/").removesuffix(CONNECT_PATH).rstrip("/")
    websocket = _WEBSOCKET_SCHEMES.get(scheme, scheme)
    if scheme == "http" and not allow_insecure and not is_loopback(_host(text)):
        raise InvalidValue(
            "http:// would pair this agent unencrypted",
            "use https://, or add --allow-insecure in a private network",
        )
    url = coordinator_url(f"{websocket}://{base}{CONNECT_PATH}", allow_insecure=allow_insecure)
    api_url = f"{_HTTP_SCHEMES[websocket]}://{base}"
    is_usepod = _host(url).rstrip(".") == USEPOD_HOST
    return Marketplace(api_url, url, _USEPOD_PAGE if is_usepod else f"{api_url}/host/pair")


def _host(url: str) -> str:
    try:
        return urlsplit(url.strip()).hostname or ""
    except ValueError:  # `coordinator_url` reports it
        return ""
