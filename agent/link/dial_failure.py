"""What a failed attempt to dial means, in the link's words. Pure."""

import ssl
from typing import Final

from websockets.exceptions import InvalidProxy, InvalidStatus, NegotiationError, ProxyError

from provider_agent.adapters.responses.retry_after import parse_retry_after
from provider_agent.agent.link.backoff import Disconnect, DisconnectCause
from provider_agent.agent.link.tls import explain_tls

OPEN_TIMEOUT_S: Final = 15.0
"""Name, connection, TLS, proxy and upgrade together, on the worst link."""

TLS_TIMEOUT_S: Final = 10.0
"""Of these the TLS handshake alone; less than the whole, so that it can be told apart."""

_TOLD_TO_WAIT: Final = frozenset({429, 503})


class DialFailed(Exception):
    """No WebSocket; `what` says why in the link's words."""

    def __init__(self, disconnect: Disconnect) -> None:
        super().__init__(disconnect.detail)
        self.disconnect = disconnect


def explain(error: Exception) -> Disconnect:
    """What kind of failure this is. A pure table."""
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        wait = parse_retry_after(error.response.headers.get("Retry-After"))
        detail = f"the upgrade was answered with HTTP status {status}"
        if status in (401, 403):
            return Disconnect(
                DisconnectCause.UNAUTHORIZED, f"{detail}; check [coordinator] token_file", wait
            )
        if status == 404:
            detail += "; is the path of [coordinator] url right (often /provider/connect)?"
        if status == 426:
            return Disconnect(DisconnectCause.INCOMPATIBLE, detail)
        return Disconnect(
            DisconnectCause.TOLD_TO_WAIT if status in _TOLD_TO_WAIT else DisconnectCause.LOST,
            detail,
            wait,
        )
    if isinstance(error, NegotiationError):
        return Disconnect(DisconnectCause.INCOMPATIBLE, "the server offers another subprotocol")
    if isinstance(error, ProxyError):
        return Disconnect(DisconnectCause.LOST, "the proxy did not let the connection through")
    if isinstance(error, InvalidProxy | ImportError):
        # The library imports what SOCKS needs only when it meets such a proxy.
        return Disconnect(
            DisconnectCause.LOST, "the proxy's address cannot be used; http:// and https:// can"
        )
    if isinstance(error, ssl.SSLError):
        return explain_tls(error)
    if isinstance(error, ConnectionAbortedError) and error.errno is None:  # the event loop's clock
        detail = f"the TLS handshake took longer than {TLS_TIMEOUT_S:.0f} s"
        return Disconnect(DisconnectCause.LOST, f"{detail}; should the url begin with ws://?")
    if isinstance(error, ConnectionRefusedError):
        return Disconnect(
            DisconnectCause.LOST, "connection refused; is the coordinator running there?"
        )
    if isinstance(error, OSError):
        return Disconnect(
            DisconnectCause.LOST, f"no connection: {error.strerror or type(error).__name__}"
        )
    if isinstance(error, EOFError) or isinstance(error.__cause__, EOFError):
        detail = "the server hung up in place of an answer; is it a WebSocket server, and does it "
        return Disconnect(DisconnectCause.LOST, f"{detail}want a client certificate?")
    return Disconnect(DisconnectCause.LOST, "the server did not answer as a WebSocket server")
