"""Opens the WebSocket to the coordinator, and says in the link's words why it could not."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    InvalidProxy,
    InvalidStatus,
    NegotiationError,
    ProxyError,
    WebSocketException,
)
from websockets.typing import Subprotocol

from adapters.retry_after import parse_retry_after
from agent.backoff import End, LinkEnd
from agent.config.addresses import is_loopback
from agent.version import agent_version
from protocol.auth import canonical_authority
from protocol.limits import KIB, MAX_MESSAGE_TO_AGENT_BYTES

OPEN_TIMEOUT_S: Final = 15.0
"""Name, connection, TLS, proxy and upgrade together, on the worst link."""

PING_EVERY_S: Final = 20.0
"""Notices a dead peer within two of them, and keeps connection tables on the way alive."""

CLOSE_TIMEOUT_S: Final = 5.0

WRITE_LIMIT_BYTES: Final = 64 * KIB
"""What may wait in this process for the kernel: more would only make control frames late."""

MAX_QUEUED_MESSAGES: Final = 4
"""Messages read ahead of the reader, each up to the size of a job."""

MAX_TOKEN_BYTES: Final = 16 * KIB

_TOLD_TO_WAIT: Final = frozenset({429, 503})


class DialSettings(Struct, frozen=True, kw_only=True):
    """Where and how to dial.

    Attributes:
        url: `wss://…` or `ws://…`.
        token_file: a bearer token for the upgrade request, read at every attempt; None: none.
        ca_file: PEM certificates to trust instead of the system's.
        proxy: HTTP proxy; None: as `HTTPS_PROXY` and `NO_PROXY` say.
    """

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None
    proxy: str | None = None

    @property
    def authority(self) -> str:
        """What the challenge's signature names."""
        parts = urlsplit(self.url)
        return canonical_authority(parts.scheme, parts.hostname or "", parts.port)


class DialFailed(Exception):
    """No WebSocket; `what` says why in the link's words."""

    def __init__(self, what: LinkEnd) -> None:
        super().__init__(what.detail)
        self.what = what


class _ConnectWithoutRedirects(connect):
    """An answer from elsewhere would not be the coordinator that the operator configured."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def dial(settings: DialSettings, subprotocol: str) -> ClientConnection:
    """Open the WebSocket. When cancelled, nothing stays open.

    Raises:
        DialFailed: it did not open.
    """
    try:
        socket = await _ConnectWithoutRedirects(
            settings.url,
            subprotocols=[Subprotocol(subprotocol)],
            compression=None,
            user_agent_header=f"provider-agent/{agent_version()}",
            additional_headers=_headers(settings.token_file),
            proxy=_proxy(settings),
            ssl=_tls(settings),
            open_timeout=OPEN_TIMEOUT_S,
            ping_interval=PING_EVERY_S,
            ping_timeout=PING_EVERY_S,
            close_timeout=CLOSE_TIMEOUT_S,
            max_size=MAX_MESSAGE_TO_AGENT_BYTES,
            max_queue=MAX_QUEUED_MESSAGES,
            write_limit=WRITE_LIMIT_BYTES,
        )
    except (WebSocketException, OSError, EOFError, ValueError, ImportError) as error:
        raise DialFailed(explain(error)) from error
    if socket.subprotocol != subprotocol:
        await socket.close(1002, "no common subprotocol")
        detail = f"the server does not speak {subprotocol}; is this a coordinator?"
        raise DialFailed(LinkEnd(End.INCOMPATIBLE, detail))
    return socket


def explain(error: Exception) -> LinkEnd:
    """What kind of failure this is. A pure table."""
    if isinstance(error, InvalidStatus):
        status = error.response.status_code
        wait = parse_retry_after(error.response.headers.get("Retry-After"))
        detail = f"the upgrade was answered with HTTP status {status}"
        if status in (401, 403):
            return LinkEnd(End.UNAUTHORIZED, f"{detail}; check [coordinator] token_file", wait)
        if status == 404:
            detail += "; is the path of [coordinator] url right (often /provider/connect)?"
        if status == 426:
            return LinkEnd(End.INCOMPATIBLE, detail)
        return LinkEnd(End.TOLD_TO_WAIT if status in _TOLD_TO_WAIT else End.LOST, detail, wait)
    if isinstance(error, ssl.SSLCertVerificationError):
        return LinkEnd(End.BAD_CERTIFICATE, f"the certificate is not good: {error.verify_message}")
    if isinstance(error, NegotiationError):
        return LinkEnd(End.INCOMPATIBLE, "the server offers another subprotocol")
    if isinstance(error, ProxyError):
        return LinkEnd(End.LOST, "the proxy did not let the connection through")
    if isinstance(error, InvalidProxy | ImportError):
        # The library imports what SOCKS needs only when it meets such a proxy.
        return LinkEnd(End.LOST, "the proxy's address cannot be used; http:// and https:// can")
    if isinstance(error, ssl.SSLError):
        return LinkEnd(End.LOST, "the TLS handshake failed; should the url begin with ws://?")
    if isinstance(error, TimeoutError):
        return LinkEnd(End.LOST, f"no answer within {OPEN_TIMEOUT_S:.0f} s")
    if isinstance(error, ConnectionRefusedError):
        return LinkEnd(End.LOST, "connection refused; is the coordinator running there?")
    if isinstance(error, OSError):
        return LinkEnd(End.LOST, f"no connection: {error.strerror or type(error).__name__}")
    return LinkEnd(End.LOST, "the server did not answer as a WebSocket server")


def _headers(token_file: Path | None) -> Mapping[str, str]:
    if token_file is None:
        return {}
    try:
        with token_file.open("rb") as file:
            token = file.read(MAX_TOKEN_BYTES).decode("ascii").strip()
    except (OSError, ValueError) as error:
        raise _unusable("token_file", token_file, error) from error
    if not token or not token.isprintable():
        raise _unusable("token_file", token_file, ValueError("it holds no token"))
    return {"Authorization": f"Bearer {token}"}


def _proxy(settings: DialSettings) -> str | Literal[True] | None:
    if is_loopback(urlsplit(settings.url).hostname or ""):
        return None
    return settings.proxy or True


def _tls(settings: DialSettings) -> ssl.SSLContext | None:
    if urlsplit(settings.url).scheme != "wss":
        return None
    try:
        return ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise _unusable("ca_file", settings.ca_file, error) from error


def _unusable(key: str, path: Path | None, error: Exception) -> DialFailed:
    """A file of the operator's cannot be used now; it may be there at the next attempt."""
    reason = getattr(error, "strerror", None) or "it does not hold what it should"
    return DialFailed(LinkEnd(End.LOST, f"[coordinator] {key} {path}: {reason}"))
