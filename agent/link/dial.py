"""Opens the WebSocket to the coordinator, and says in the link's words why it could not."""

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
"""For the close handshake: a peer that is there answers in one round trip."""

WRITE_LIMIT_BYTES: Final = 16 * KIB
"""What may wait in this process for the kernel: more would only make control frames late. With 64 a
small job beside a greedy one came 1.3 s later on a link of 100 kB/s."""

MAX_UNSENT_BYTES: Final = 16 * MIB
"""More than any message of the agent and what waits before it. Beyond this it is pongs for a peer
that sends pings without an end and reads nothing: the link ends before memory does."""

MAX_QUEUED_MESSAGES: Final = 4
"""Messages read ahead of the reader, each up to the size of a job."""


class DialSettings(Struct, frozen=True, kw_only=True):
    """Where and how to dial.

    Attributes:
        url: `wss://…` or `ws://…`.
        token_file: a bearer token for the upgrade request, read at every attempt; None: none.
        ca_file: PEM certificates to trust instead of the system's. This and the next two are read
            at every attempt, too.
        client_cert_file: PEM certificate to show, with the chain above it.
        client_key_file: its private key; None: it stands in `client_cert_file`.
        proxy: HTTP proxy; None: as `HTTPS_PROXY` and `NO_PROXY` say.
    """

    url: str
    token_file: Path | None = None
    ca_file: Path | None = None
    client_cert_file: Path | None = None
    client_key_file: Path | None = None
    proxy: str | None = None

    def __repr__(self) -> str:
        return f"<DialSettings {self.url}>"  # the proxy's address may hold a password

    @property
    def authority(self) -> str:
        """What the challenge's signature names."""
        parts = urlsplit(self.url)
        return canonical_authority(parts.scheme, parts.hostname or "", parts.port)

    @classmethod
    def of(cls, config: CoordinatorConfig, url: str) -> "DialSettings":
        """The operator's settings, for one of the coordinator's addresses."""
        return cls(
            url=url,
            token_file=config.token_file,
            ca_file=config.ca_file,
            client_cert_file=config.client_cert_file,
            client_key_file=config.client_key_file,
            proxy=config.proxy,
        )


class _ConnectWithoutRedirects(connect):
    """An answer from elsewhere would not be the coordinator that the operator configured."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class _Attempt:
    """How far one attempt got.

    Attributes:
        connected: the transport, TLS included, is up: what follows is the upgrade.
        lost: what broke the transport. The library tells only that no answer came.
    """

    def __init__(self) -> None:
        self.connected = False
        self.lost: Exception | None = None

    def connection_type(self) -> type[ClientConnection]:
        """Makes connections that keep this up to date."""
        attempt = self

        class Watched(ClientConnection):
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
                # Behind a proxy the loop reports a failed TLS handshake here, too, and the library
                # is not prepared for the end of what never began.
                if attempt.connected:
                    super().connection_lost(exc)

        return Watched


async def dial(settings: DialSettings, subprotocol: str) -> ClientConnection:
    """Open the WebSocket. When cancelled, nothing stays open.

    The library's own keep-alive is off: whoever uses the connection has to notice that it died.

    Raises:
        DialFailed: it did not open.
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
        raise DialFailed(Disconnect(DisconnectCause.LOST, _overdue(settings, attempt))) from error
    except (WebSocketException, OSError, EOFError, ValueError, ImportError) as error:
        lost = attempt.lost
        raise DialFailed(explain(lost if isinstance(lost, ssl.SSLError) else error)) from error
    if socket.subprotocol != subprotocol:
        await socket.close(1002, "no common subprotocol")
        detail = f"the server does not speak {subprotocol}; is this a coordinator?"
        raise DialFailed(Disconnect(DisconnectCause.INCOMPATIBLE, detail))
    return socket


def _overdue(settings: DialSettings, attempt: _Attempt) -> str:
    """What did not come within `OPEN_TIMEOUT_S`."""
    within = f"within {OPEN_TIMEOUT_S:.0f} s"
    if attempt.connected:
        return f"connected, but no answer to the upgrade {within}; is this a coordinator?"
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
    # In a thread: jobs go on while the agent reconnects, and reading a store of certificates would
    # hold up their streams.
    return await asyncio.to_thread(
        client_context, settings.ca_file, settings.client_cert_file, settings.client_key_file
    )
