"""The connection of a coordinator to NATS, which is made again whenever it is lost."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from provider_agent.coordinator.cluster.nats_client import NatsClient, describe_error
from provider_agent.coordinator.cluster.settings import ClusterSettings
from provider_agent.coordinator.connections.limited_log import LimitedLog
from provider_agent.protocol.limits import MIB

CONNECT_TIMEOUT_S: Final = 5
RECONNECT_WAIT_S: Final = 1
"""The pause between two attempts to reach the same server."""

PING_S: Final = 5
"""The interval of pings. After two without an answer, the connection counts as lost: a server whose
machine lost power is noticed within 15 s."""

FLUSH_TIMEOUT_S: Final = 5.0
"""The longest wait for a full send buffer. The client waits without a limit by default, and would
wait forever for a connection that ends meanwhile."""

SEND_BUFFER_BYTES: Final = 2 * MIB
"""The most bytes that wait for the connection; beyond them `publish` waits."""

RECEIVE_BUFFER_BYTES: Final = 64 * MIB
"""The most received bytes that wait to be processed; further messages are lost, which costs a
renewal each. The windows of all jobs limit what can arrive."""

OTHERS_RECONNECT_S: Final = 2.5
"""For so long after a connection was made, others may still reconnect: that nobody receives a
message does not mean then that they have crashed."""

ASK_AGAIN_S: Final = 0.25
"""The pause before a request is repeated that nobody received, while others may reconnect."""

SERVER_ANSWER_S: Final = 1.0
"""How long the server may take to answer when all other coordinators are silent."""

CLOSE_S: Final = 2.0
"""How long `close` waits for the server."""

Receivers = Mapping[str, Callable[[Msg], Coroutine[None, None, None]]]
"""Subject, below the base → the function that is called with each message."""


class NatsConnection:
    """Publishes and receives messages on the subjects below `base`.

    Args:
        cluster: how to reach the servers.
        base: the first parts of all subjects.
        limited_log: logs errors.
        connected: called when the connection is made, also again.
        disconnected: called when it is lost.
    """

    def __init__(
        self,
        cluster: ClusterSettings,
        base: str,
        limited_log: LimitedLog,
        *,
        connected: Callable[[], Awaitable[None]],
        disconnected: Callable[[], None],
    ) -> None:
        self._cluster = cluster
        self._base = base
        self._log = limited_log
        self._connected = connected
        self._disconnected = disconnected
        self._client = NatsClient(cluster)
        self._connected_at = -math.inf
        self._server_hangs = False

    def __repr__(self) -> str:
        return f"<NatsConnection {self._base} {self.server or 'none'}>"

    @property
    def server(self) -> str:
        """The server of the connection, without user and password; "" if there is none."""
        return self._client.server

    @property
    def pending_bytes(self) -> int:
        """How many bytes wait for the connection."""
        return self._client.pending_data_size

    @property
    def others_may_reconnect(self) -> bool:
        """Whether the connection was made so lately that others may not have theirs yet."""
        return asyncio.get_running_loop().time() - self._connected_at < OTHERS_RECONNECT_S

    async def run(self, receivers: Receivers) -> None:
        """Connect, and receive messages, until it is cancelled.

        The client reconnects after a lost connection, but closes itself after an error of the
        server, such as a password that was changed or credentials that expired.
        """
        while True:
            self._client, closed = NatsClient(self._cluster), asyncio.Event()
            try:
                await self._open(receivers, closed)
            except NatsError as error:
                await self._on_error(error)
                await self._client.close()
            else:
                await closed.wait()
                if (reason := self._client.last_error) is not None:
                    await self._on_error(reason)
            await self._on_disconnected()
            await asyncio.sleep(RECONNECT_WAIT_S)

    async def _open(self, receivers: Receivers, closed: asyncio.Event) -> None:
        cluster = self._cluster

        async def on_closed() -> None:
            closed.set()

        await self._client.connect(
            servers=list(cluster.urls),
            name="provider-agent coordinator",
            max_reconnect_attempts=-1,
            reconnect_time_wait=RECONNECT_WAIT_S,
            connect_timeout=CONNECT_TIMEOUT_S,
            ping_interval=PING_S,
            no_echo=True,
            pending_size=SEND_BUFFER_BYTES,
            flush_timeout=FLUSH_TIMEOUT_S,
            user_credentials=cluster.credentials,
            inbox_prefix=f"{self._base}.inbox",
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_connected,
            closed_cb=on_closed,
        )
        for subject, receive in receivers.items():
            await self._client.subscribe(
                f"{self._base}.{subject}", cb=receive, pending_bytes_limit=RECEIVE_BUFFER_BYTES
            )
        await self._on_connected()

    async def _on_connected(self) -> None:
        self._server_hangs = False
        self._connected_at = asyncio.get_running_loop().time()
        await self._connected()

    async def _on_disconnected(self) -> None:
        self._disconnected()

    async def _on_error(self, error: Exception) -> None:
        self._log.log(logging.WARNING, "cluster error", error=describe_error(error))

    async def publish(self, subject: str, message: bytes, reply: str = "") -> None:
        """Publish a message; lose it if the connection is lost.

        Args:
            subject: below the base.
            message: the message.
            reply: the whole subject on which NATS reports that nobody receives the message.
        """
        try:
            await self._client.publish(f"{self._base}.{subject}", message, reply)
        except NatsError as error:
            await self._on_error(error)
        # The client ignores a cancellation while it waits for a connection that accepts nothing.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError

    async def request(self, subject: str, message: bytes, timeout_s: float) -> bytes:
        """Send a request; return the answer.

        Raises:
            NatsError: nobody receives requests on the subject, or the connection is lost.
            TimeoutError: there is no answer after `timeout_s`.
        """
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    answer = await self._client.request(
                        f"{self._base}.{subject}", message, timeout=timeout_s
                    )
                except NoRespondersError:
                    if not self.others_may_reconnect:
                        raise
                    await asyncio.sleep(ASK_AGAIN_S)
                else:
                    return bytes(answer.data)

    async def check(self, *, all_silent: bool) -> None:
        """Count a server that has stopped without closing the connection as disconnected.

        Otherwise all coordinators would seem to have crashed. The client's own pings take longer.

        Args:
            all_silent: whether nothing arrives from any other coordinator.
        """
        if self._server_hangs:
            if await self._server_answers():
                await self._on_connected()
        elif all_silent and not await self._server_answers():
            self._server_hangs = True
            self._disconnected()

    async def _server_answers(self) -> bool:
        # Not with a ping: the client fails on an answer that comes after the timeout.
        subject = f"{self._base}.nobody"
        try:
            await self._client.request(subject, b"", timeout=SERVER_ANSWER_S)
        except NoRespondersError:
            return True
        except (OSError, NatsError):
            return False
        return True

    async def flush(self) -> None:
        """Wait until the server has received what was published."""
        await self._client.flush()

    async def close(self) -> None:
        """Close the connection; does not wait for a server that does not read."""
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._client.close()
        except TimeoutError:  # the connection ends with the process
            pass
