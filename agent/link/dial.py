"""Opens the WebSocket to the coordinator; every failure becomes a `DialFailed`."""

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, cast
from urllib.parse import urlsplit

from msgspec import Struct
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.proxy import get_proxy
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from provider_agent.agent.config import CoordinatorConfig
from provider_agent.agent.config.addresses import is_loopback, shown_url
from provider_agent.agent.link.backoff import Disconnect, DisconnectCause
from provider_agent.agent.link.dial_failure import (
    CHECK_PROXY,
    OPEN_TIMEOUT_S,
    TLS_TIMEOUT_S,
    DialFailed,
    explain,
)
from provider_agent.agent.link.link_connection import LinkConnection
from provider_agent.agent.link.link_files import read_token
from provider_agent.agent.link.tls import UnusableFile, client_context
from provider_agent.agent.version import agent_version
from provider_agent.protocol.auth import canonical_authority
from provider_agent.protocol.limits import MAX_MESSAGE_TO_AGENT_BYTES
from provider_agent.websocket.socket_options import WRITE_LIMIT_BYTES, set_socket_options

CLOSE_TIMEOUT_S: Final = 5.0
"""The timeout of the close handshake, for which a working peer needs one round trip."""

MAX_QUEUED_MESSAGES: Final = 4
"""Received messages that may wait until the agent reads them, each up to 1 MiB."""

_CHECK_URL: Final = "check that [coordinator] url is the address of a coordinator"
_OR_DIALECT: Final = ', and set dialect = "usepod" if it is one of a Use Pod marketplace'


class DialSettings(Struct, frozen=True, kw_only=True):
    """Where and how to dial. Every dial reads all files again.

    Attributes:
        url: `wss://…` or `ws://…`.
        token_file: contains a bearer token for the upgrade request.
        ca_file: PEM certificates to trust instead of the system's.
        client_cert_file: the client certificate, as PEM, with its chain.
        client_key_file: the private key of the client certificate; if None, it is in
            `client_cert_file`.
        proxy: URL of an HTTP proxy; if None, `HTTPS_PROXY` and `NO_PROXY` apply. A loopback address
            is always dialed directly.
    """

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    proxy: str | None = None

    def __repr__(self) -> str:
        return f"<DialSettings {shown_url(self.url)}>"  # the proxy may have a password, too

    @property
    def authority(self) -> str:
        """The `host:port` that the agent signs together with the challenge."""
        parts = urlsplit(self.url)
        return canonical_authority(parts.scheme, parts.hostname or "", parts.port)

    @classmethod
    def of(cls, config: CoordinatorConfig, url: str) -> "DialSettings":
        """Return the settings for one of the coordinator's addresses."""
        return cls(
            url=url,
            token_file=config.token_file,
            ca_file=config.ca_file,
            client_cert_file=config.client_cert_file,
            client_key_file=config.client_key_file,
            proxy=config.proxy,
        )


class _ConnectWithoutRedirects(connect):
    """Rejects redirects, which could lead to a server that the operator did not configure."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class _DialProgress:
    """The progress of one dial.

    Attributes:
        connected: the transport, including TLS, is open; the upgrade follows.
        lost: the error that closed the transport; `websockets` itself reports only that no response
            was received.
    """

    def __init__(self) -> None:
        self.connected = False
        self.lost: Exception | None = None

    def connection_type(self) -> type[LinkConnection]:
        """Return a connection class that records its progress in this object."""
        progress = self

        class ObservedConnection(LinkConnection):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                progress.connected = True
                set_socket_options(transport)
                super().connection_made(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                progress.lost = exc
                # Behind a proxy, the event loop also reports a failed TLS handshake here, and
                # `websockets` fails if `connection_lost` is called before `connection_made`.
                if progress.connected:
                    super().connection_lost(exc)

        return ObservedConnection


async def dial(
    settings: DialSettings,
    subprotocol: str | None,
    max_message_bytes: int = MAX_MESSAGE_TO_AGENT_BYTES,
) -> LinkConnection:
    """Open the WebSocket. Cancelling this coroutine closes what it has opened.

    WebSocket pings are off: the caller must detect a dead connection.

    Args:
        settings: where and how to dial.
        subprotocol: the subprotocol that the server must select; None: none is offered.
        max_message_bytes: the largest message to accept.

    Raises:
        DialFailed: the WebSocket could not be opened.
    """
    progress = _DialProgress()
    try:
        context = await _tls(settings)
        connection = await _ConnectWithoutRedirects(
            settings.url,
            subprotocols=None if subprotocol is None else [Subprotocol(subprotocol)],
            compression=None,
            user_agent_header=f"provider-agent/{agent_version()}",
            additional_headers=_headers(settings.token_file),
            proxy=_proxy(settings),
            open_timeout=OPEN_TIMEOUT_S,
            ping_interval=None,
            close_timeout=CLOSE_TIMEOUT_S,
            max_size=max_message_bytes,
            max_queue=MAX_QUEUED_MESSAGES,
            write_limit=WRITE_LIMIT_BYTES,
            create_connection=progress.connection_type(),
            ssl=context,
            server_hostname=None if context is None else _server_name(settings),
            ssl_handshake_timeout=None if context is None else TLS_TIMEOUT_S,
        )
    except UnusableFile as error:
        # `LOST`, so that the agent keeps dialing: the operator may replace the file.
        raise DialFailed(Disconnect(DisconnectCause.LOST, str(error))) from error
    except TimeoutError as error:
        raise DialFailed(
            Disconnect(DisconnectCause.LOST, _explain_timeout(settings, progress))
        ) from error
    except (WebSocketException, OSError, EOFError, ValueError, ImportError) as error:
        lost = progress.lost
        cause = lost if isinstance(lost, ssl.SSLError) else error
        disconnect = explain(
            cause,
            settings.url,
            proxy=_proxy_address(settings),
            has_token=settings.token_file is not None,
        )
        raise DialFailed(disconnect) from error
    if connection.subprotocol != subprotocol:
        await connection.close(1002, "no common subprotocol")
        detail = f"the server does not support {subprotocol}; {_CHECK_URL}{_OR_DIALECT}"
        raise DialFailed(Disconnect(DisconnectCause.UPGRADE_REFUSED, detail))
    return cast("LinkConnection", connection)


def _explain_timeout(settings: DialSettings, progress: _DialProgress) -> str:
    """Return a message that names the step that did not complete within `OPEN_TIMEOUT_S`."""
    within = f"within {OPEN_TIMEOUT_S:.0f} s"
    if progress.connected:
        return f"connected, but no response to the upgrade {within}; {_CHECK_URL}"
    if (proxy := _proxy_address(settings)) is not None:
        return f"no connection through the proxy {proxy} {within}; {CHECK_PROXY}"
    return f"no connection {within}"


def _server_name(settings: DialSettings) -> str:
    """Return the host for SNI and the certificate check: no trailing dot (RFC 6066, section 3)."""
    return (urlsplit(settings.url).hostname or "").rstrip(".")


def _headers(token_file: Path | None) -> Mapping[str, str]:
    return {} if token_file is None else {"Authorization": f"Bearer {read_token(token_file)}"}


def _proxy(settings: DialSettings) -> str | Literal[True] | None:
    """Return the proxy's URL, True to apply `HTTPS_PROXY` and `NO_PROXY`, or None for no proxy."""
    if is_loopback(urlsplit(settings.url).hostname or ""):
        return None
    return settings.proxy or True


def _proxy_address(settings: DialSettings) -> str | None:
    """Return the `host:port` of the proxy that `websockets` dials; None if it dials directly."""
    proxy = _proxy(settings)
    if proxy is True:
        proxy = get_proxy(parse_uri(settings.url))
    if proxy is None:
        return None
    # Without `urlsplit`, which raises an exception for some malformed URLs of the environment.
    return proxy.rpartition("://")[2].rpartition("@")[2].partition("/")[0]


async def _tls(settings: DialSettings) -> ssl.SSLContext | None:
    if urlsplit(settings.url).scheme != "wss":
        return None
    # In a thread, because reading the certificate store would block the streams of running jobs.
    return await asyncio.to_thread(
        client_context, settings.ca_file, settings.client_cert_file, settings.client_key_file
    )
