"""Turns the exception of a failed dial into a `Disconnect`, which explains the failure."""

import socket
import ssl
from typing import Final
from urllib.parse import urlsplit

from websockets.exceptions import (
    InvalidProxy,
    InvalidProxyStatus,
    InvalidStatus,
    NegotiationError,
    ProxyError,
)
from websockets.http11 import Response

from provider_agent.adapters.responses.retry_after import parse_retry_after
from provider_agent.agent.link.backoff import Disconnect, DisconnectCause
from provider_agent.agent.link.tls import explain_tls

OPEN_TIMEOUT_S: Final = 15.0
"""The timeout of DNS, TCP, proxy, TLS and upgrade together; long enough for a slow link."""

TLS_TIMEOUT_S: Final = 10.0
"""The timeout of the TLS handshake; shorter than `OPEN_TIMEOUT_S`, so that the error names TLS."""

_TOLD_TO_WAIT: Final = frozenset({429, 503})

CHECK_PROXY: Final = "check [coordinator] proxy or HTTPS_PROXY"

_CHECK_HOST: Final = "check its spelling in [coordinator] url, and the DNS of this machine"
_USE_WSS: Final = "should the url begin with wss://?"


class DialFailed(Exception):
    """The WebSocket could not be opened; `disconnect` explains why."""

    def __init__(self, disconnect: Disconnect) -> None:
        super().__init__(disconnect.detail)
        self.disconnect = disconnect


def explain(
    error: Exception, url: str, *, proxy: str | None = None, has_token: bool = False
) -> Disconnect:
    """Return what an exception of `websockets.connect` means for the next dial of `url`.

    Args:
        error: the exception.
        url: the coordinator's address.
        proxy: the `host:port` of the proxy that was dialed instead of the coordinator, if any.
        has_token: whether a bearer token was sent.
    """
    if isinstance(error, InvalidStatus):
        return _explain_status(error.response, url, has_token=has_token)
    if isinstance(error, ssl.SSLError):
        return explain_tls(error)
    if isinstance(error, InvalidProxy | ImportError):
        # `ImportError`: for a SOCKS proxy, `websockets` needs a package that is not installed.
        detail = "the URL of the proxy is not usable; give one with http:// or https://"
        return Disconnect(DisconnectCause.LOST, detail)
    if isinstance(error, OSError):
        return Disconnect(DisconnectCause.LOST, _explain_os_error(error, url, proxy))
    is_eof = isinstance(error, EOFError) or isinstance(error.__cause__, EOFError)
    if is_eof and not isinstance(error, ProxyError):
        detail = "the server closed the connection without a response; is it a WebSocket server, "
        is_tls = urlsplit(url).scheme == "wss"
        detail += "and does it need a client certificate?" if is_tls else f"and {_USE_WSS}"
        return Disconnect(DisconnectCause.LOST, detail)
    return Disconnect(DisconnectCause.UPGRADE_REFUSED, _explain_response(error))


def _explain_os_error(error: OSError, url: str, proxy: str | None) -> str:
    if isinstance(error, ConnectionAbortedError) and error.errno is None:  # asyncio's timeout
        detail = f"the TLS handshake took longer than {TLS_TIMEOUT_S:.0f} s"
        return f"{detail}; should the url begin with ws://?"
    reason = error.strerror or type(error).__name__
    if isinstance(error, ConnectionRefusedError):
        reason = "connection refused"
    if proxy is not None:
        if isinstance(error, ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
            return f"the connection through the proxy {proxy} was lost ({reason}); {CHECK_PROXY}"
        return f"the proxy {proxy} cannot be reached ({reason}); {CHECK_PROXY}"
    if isinstance(error, ConnectionRefusedError):
        return f"{reason}; is the coordinator running there?"
    if isinstance(error, socket.gaierror):
        host = urlsplit(url).hostname
        return f"no such host: {host} ({reason}); {_CHECK_HOST}"
    return f"no connection: {reason}"


def _explain_response(error: Exception) -> str:
    """Return what is wrong with the response to a `CONNECT` or to the upgrade."""
    if isinstance(error, NegotiationError):
        # RFC 6455, section 4.2.2: a server may select only what the client has offered.
        return "the server selected a subprotocol or extension that the agent did not offer"
    if isinstance(error, InvalidProxyStatus):
        status = error.response.status_code
        return f"the proxy refused the connection with HTTP status {status}"
    if isinstance(error, ProxyError):
        return "the response is not that of an HTTP proxy; is the proxy's address right?"
    return "the response is not that of a WebSocket server"


def _explain_status(response: Response, url: str, *, has_token: bool) -> Disconnect:
    """Return what an HTTP response other than an upgrade means for the next dial."""
    status = response.status_code
    wait = parse_retry_after(response.headers.get("Retry-After"))
    detail = f"the server answered the upgrade with HTTP status {status}"
    unauthorized = status in (401, 403)
    if unauthorized:
        verb = "check" if has_token else "set"
        detail += f"; {verb} [coordinator] token_file"
    parts = urlsplit(url)
    if status == 400 and parts.scheme == "ws":  # what web servers answer on a port for TLS
        detail += f"; {_USE_WSS}"
    # A coordinator answers GET / with 200.
    elif status == 404 or parts.path in ("", "/"):
        detail += "; is the path of [coordinator] url right (often /provider/connect)?"
    if unauthorized:
        return Disconnect(DisconnectCause.UNAUTHORIZED, detail, wait)
    told_to_wait = status in _TOLD_TO_WAIT
    return Disconnect(
        DisconnectCause.TOLD_TO_WAIT if told_to_wait else DisconnectCause.UPGRADE_REFUSED,
        detail,
        wait,
    )
