"""The NATS client, with what its library does not do for a service that runs for months."""

import asyncio
from typing import Final

from nats.aio.client import Client, Srv
from nats.errors import Error as NatsError

from provider_agent.coordinator.cluster.credentials import Credentials, read_credentials
from provider_agent.coordinator.cluster.settings import ClusterSettings, without_user
from provider_agent.coordinator.cluster.tls_files import tls_context
from provider_agent.coordinator.exceptions import SettingsError
from provider_agent.protocol.field_values import to_line

MAX_ERROR_CHARS: Final = 200
"""The most characters of an error's text in a log line; some of it comes from the server."""


class NatsClient(Client):
    """A client that reads its files again at each connection, because they may be renewed.

    With `tls://`, it connects only to servers that offer TLS.

    Args:
        cluster: the files.
    """

    def __init__(self, cluster: ClusterSettings) -> None:
        super().__init__()
        self._cluster = cluster
        self._closing = asyncio.Lock()

    @property
    def server(self) -> str:
        """The server of the connection, such as `nats://host:4222`, without user and password."""
        url = self.connected_url
        return "" if url is None else without_user(url.geturl())

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        # The library would send what is pending. It would wait for that without a limit while the
        # server reads nothing, and after a lost connection it would fail, without a call of
        # `closed_cb`.
        self._pending.clear()
        self._pending_data_size = 0
        async with self._closing:  # after an error of the server, a task of the library closes
            await super()._close(status, do_cbs)

    async def _process_connect_init(self) -> None:
        try:
            await super()._process_connect_init()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # The library tries again only after its own errors and those of the connection.
            raise NatsError("the server does not speak the protocol of NATS") from error

    async def _connect_to_server(self, s: Srv) -> None:
        cluster = self._cluster
        # In a thread: to load the system's certificates takes tens of milliseconds.
        context = await asyncio.to_thread(
            tls_context, cluster.ca_file, cluster.certificate, cluster.key
        )
        if context is not None:
            self.options["tls"] = context
        await super()._connect_to_server(s)

    def _connect_command(self) -> bytes:
        # The library continues without TLS if the server does not ask for TLS: anyone between the
        # two could remove that from the server's first line, and read the password that follows.
        server = self._current_server
        if server and server.uri.scheme == "tls" and not self._server_info.get("tls_required"):
            raise NatsError("the server offers no TLS")
        return super()._connect_command()

    def _credentials(self) -> Credentials:
        file = self._cluster.credentials
        try:
            return read_credentials(file) if file is not None else Credentials(b"", b"")
        except SettingsError as error:  # another kind of error would end the reconnection
            raise NatsError(str(error)) from error

    # The library searches the file for the JWT in a loop that does not end if the file has none.

    def _read_creds_user_jwt(self, creds: object) -> bytearray:  # noqa: ARG002
        return bytearray(self._credentials().jwt)

    def _read_creds_user_nkey(self, creds: object) -> bytearray:  # noqa: ARG002
        return bytearray(self._credentials().seed)


def describe_error(error: Exception) -> str:
    """Return the name and the text of an error, without a URL: it may contain a password."""
    text = str(error)
    name = type(error).__name__
    return name if not text or "://" in text else f"{name}: {to_line(text, MAX_ERROR_CHARS)}"
