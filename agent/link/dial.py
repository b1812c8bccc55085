"""Opens the WebSocket to the coordinator; every failure becomes a `DialFailed`."""

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from provider_agent.agent.config import CoordinatorConfig
from provider_agent.agent.config.addresses import is_loopback
from provider_agent.agent.link.backoff import Disconnect, DisconnectCause
from provider_agent.agent.link.dial_failure import (
    OPEN_TIMEOUT_S,
    TLS_TIMEOUT_S,
    DialFailed,
    explain,
)
from provider_agent.agent.link.link_files import read_token
from provider_agent.agent.link.socket_options import set_socket_options
from provider_agent.agent.link.tls import UnusableFile, client_context
from provider_agent.agent.version import agent_version
from provider_agent.protocol.auth import canonical_authority
from provider_agent.protocol.limits import KIB, MAX_MESSAGE_TO_AGENT_BYTES, MIB

CLOSE_TIMEOUT_S: Final = 5.0
"""The timeout of the close handshake, which takes a live peer one round trip."""

WRITE_LIMIT_BYTES: Final = 16 * KIB
"""How much this process buffers while the kernel accepts no more. A larger buffer delays control
frames: with 64 KiB, a small job beside a large one was 1.3 s later on a link of 100 kB/s."""

MAX_UNSENT_BYTES: Final = 16 * MIB
"""More than any message of the agent and the buffer before it. Only a peer that floods the agent
with pings and reads no pongs exceeds it; the link is then aborted to bound memory."""

MAX_QUEUED_MESSAGES: Final = 4
"""Received messages that wait for the reader, each up to the size of a job."""


class DialSettings(Struct, frozen=True, kw_only=True):
    """Where and how to dial.

    Attributes:
        url: `wss://…` or `ws://…`.
        token_file: holds a bearer token for the upgrade request. All files are read at every dial.
        ca_file: PEM certificates to trust instead of the system's.
        client_cert_file: the client certificate, as PEM, with its chain.
        client_key_file: its private key; None: it is in `client_cert_file`.
        proxy: URL of an HTTP proxy; None: `HTTPS_PROXY` and `NO_PROXY` apply.
    """

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    proxy: str | None = None

    def __repr__(self) -> str:
        return f"<DialSettings {self.url}>"  # the URL of the proxy may hold a password

    @property
    def authority(self) -> str:
        """The authority that the signature of the challenge covers."""
        parts = urlsplit(self.url)
        return canonical_authority(parts.scheme, parts.hostname or "", parts.port)

    @classmethod
    def of(cls, config: CoordinatorConfig, url: str) -> "DialSettings":
        """The settings for one of the coordinator's addresses."""
        return cls(
            url=url,
            token_file=config.token_file,
            ca_file=config.ca_file,
            client_cert_file=config.client_cert_file,
            client_key_file=config.client_key_file,
            proxy=config.proxy,
        )


class _ConnectWithoutRedirects(connect):
    """Follows no redirect: it would lead to a server that the operator did not configure."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class _Attempt:
    """The progress of one attempt to connect.

    Attributes:
        connected: the transport, including TLS, is open; the upgrade follows.
        lost: the error that closed the transport; the library reports only a missing response.
    """

    def __init__(self) -> None:
        self.connected = False
        self.lost: Exception | None = None

    def connection_type(self) -> type[ClientConnection]:
        """A connection class that records its progress in this attempt."""
        attempt = self

        class ObservedConnection(ClientConnection):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                attempt.connected = True
                set_socket_options(transport)
                super().connection_made(transport)

            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                if self.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
                    self.transport.abort()

            def connection_lost(self, exc: Exception | None) -> None:
                attempt.lost = exc
                # Behind a proxy, the event loop also reports a failed TLS handshake here, and the
                # library does not expect `connection_lost` without `connection_made`.
                if attempt.connected:
                    super().connection_lost(exc)

        return ObservedConnection


async def dial(settings: DialSettings, subprotocol: str) -> ClientConnection:
    """Open the WebSocket. Cancelling it closes everything that was opened.

    The library's keepalive is off: the caller has to detect a broken connection.

    Raises:
        DialFailed: the WebSocket could not be opened.
    """
    attempt = _Attempt()
    try:
        context = await _tls(settings)
        socket = await _ConnectWithoutRedirects(
            settings.url,
            subprotocols=[Subprotocol(subprotocol)],
            compression=None,
            user_agent_header=f"provider-agent/{agent_version()}",
            additional_headers=_headers(settings.token_file),
            proxy=_proxy(settings),
            open_timeout=OPEN_TIMEOUT_S,
            ping_interval=None,
            close_timeout=CLOSE_TIMEOUT_S,
            max_size=MAX_MESSAGE_TO_AGENT_BYTES,
            max_queue=MAX_QUEUED_MESSAGES,
            write_limit=WRITE_LIMIT_BYTES,
            create_connection=attempt.connection_type(),
            ssl=context,
            ssl_handshake_timeout=None if context is None else TLS_TIMEOUT_S,
        )
    except UnusableFile as error:
        raise DialFailed(Disconnect(DisconnectCause.LOST, str(error))) from error
    except TimeoutError as error:
        raise DialFailed(
            Disconnect(DisconnectCause.LOST, _explain_timeout(settings, attempt))
        ) from error
    except (WebSocketException, OSError, EOFError, ValueError, ImportError) as error:
        lost = attempt.lost
        raise DialFailed(explain(lost if isinstance(lost, ssl.SSLError) else error)) from error
    if socket.subprotocol != subprotocol:
        await socket.close(1002, "no common subprotocol")
        detail = f"the server does not support {subprotocol}; is this a coordinator?"
        raise DialFailed(Disconnect(DisconnectCause.INCOMPATIBLE, detail))
    return socket


def _explain_timeout(settings: DialSettings, attempt: _Attempt) -> str:
    """Which step did not complete within `OPEN_TIMEOUT_S`."""
    within = f"within {OPEN_TIMEOUT_S:.0f} s"
    if attempt.connected:
        return f"connected, but no response to the upgrade {within}; is this a coordinator?"
    if isinstance(_proxy(settings), str):
        return f"no connection through the proxy {within}; check [coordinator] proxy"
    return f"no connection {within}"


def _headers(token_file: Path | None) -> Mapping[str, str]:
    return {} if token_file is None else {"Authorization": f"Bearer {read_token(token_file)}"}


def _proxy(settings: DialSettings) -> str | Literal[True] | None:
    if is_loopback(urlsplit(settings.url).hostname or ""):
        return None
    return settings.proxy or True


async def _tls(settings: DialSettings) -> ssl.SSLContext | None:
    if urlsplit(settings.url).scheme != "wss":
        return None
    # In a thread: jobs continue while the agent reconnects, and reading the certificate store would
    # block their streams.
    return await asyncio.to_thread(
        client_context, settings.ca_file, settings.client_cert_file, settings.client_key_file
    )
