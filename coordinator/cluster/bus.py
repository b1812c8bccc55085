"""Connects a `ClusterMember` to the other coordinators through NATS.

Below the prefix and the version of the messages, every coordinator publishes its snapshots to
`agents`, and the usage of API keys, if they have limits, to `usage`. Only the coordinator with the
id ID reads `to.ID`, for frames, and `takeover.ID`, for requests, which it answers to a subject
below `inbox`. One task writes: one message per receiver and wake-up. It takes frames from the
member only while NATS accepts them, so a slow connection fills the windows of the jobs, and no
queue.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable, Coroutine, Iterable
from typing import Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from provider_agent.coordinator.agents.fleet import Fleet
from provider_agent.coordinator.cluster.member import ClusterMember
from provider_agent.coordinator.cluster.messages import VERSION, MalformedPeerMessage
from provider_agent.coordinator.cluster.nats_client import NatsClient, describe_error
from provider_agent.coordinator.cluster.settings import ClusterSettings
from provider_agent.coordinator.cluster.usage import REPORTS_PER_INTERVAL, UsageExchange
from provider_agent.coordinator.cluster.view import SILENT_INTERVALS
from provider_agent.coordinator.connections.limited_log import LimitedLog
from provider_agent.coordinator.key_limits import KeyLimits
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.event_log import EventLogger
from provider_agent.protocol.limits import MIB

log = EventLogger(__name__)

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
"""The most bytes that wait for the connection; beyond them the writer waits."""

RECEIVE_BUFFER_BYTES: Final = 64 * MIB
"""The most received bytes that wait to be processed; further messages are lost, which costs a
renewal each. The windows of all jobs limit what can arrive."""

ANSWER_TIMEOUT_S: Final = 3.0
"""How long a coordinator may take to hand over the jobs of an agent that has reconnected. Meanwhile
the agent waits for `Welcome`, so this must be well below the handshake timeout. If the coordinator
has crashed, NATS reports at once that nothing receives the request."""

MAX_ASKING: Final = 4096
"""The most takeover requests that wait for an answer; further ones count as not answered."""

SNAPSHOT_PAUSE_S: Final = 0.25
"""The shortest time between two snapshots: a busy fleet changes with every job."""

SNAPSHOT_PAUSE_FACTOR: Final = 50
"""The pause lasts this many times as long as the snapshot took: snapshots of 1,000 agents must not
take more than a few percent of the time."""

NO_RESPONDERS: Final = "no_responders"
"""To the subject `no_responders.ID.PEER`, NATS reports that nobody receives the messages from ID to
PEER: that coordinator has crashed, or is not connected."""

_STATUS: Final = "503"

RECONNECT_S: Final = 2.5
"""For so long after a connection to NATS was made, others may still reconnect: that nobody receives
a message does not mean then that they have crashed."""

ASK_AGAIN_S: Final = 0.25

SERVER_ANSWER_S: Final = 1.0
"""How long the NATS server may take to answer when all other coordinators are silent."""

CANCEL_AGAIN_S: Final = 0.1
"""The pause before a task that has ignored its cancellation is cancelled again."""

STOP_S: Final = 2.0
"""How long a stop waits until the last messages are sent."""


class ClusterBus:
    """The connection to NATS; `start` and `stop` are called once each.

    Args:
        fleet: the agents that are connected here.
        settings: the coordinator's settings.
        cluster: how to reach NATS.
        own_id: 16 random bytes.
        clock: monotonic, in seconds.
        key_limits: the limits of each API key; None for no limit.

    Attributes:
        member: the state of this coordinator in the cluster.
    """

    def __init__(
        self,
        fleet: Fleet,
        settings: CoordinatorSettings,
        cluster: ClusterSettings,
        *,
        own_id: bytes,
        clock: Callable[[], float],
        key_limits: KeyLimits | None = None,
    ) -> None:
        self._cluster = cluster
        self._base = f"{cluster.prefix}.{VERSION}"
        self._no_responders = f"{self._base}.{NO_RESPONDERS}.{own_id.hex()}."
        self._queued = asyncio.Event()
        self._snapshot_due = asyncio.Event()
        self._idle = asyncio.Event()
        self._log = LimitedLog(log, clock)
        self._client = NatsClient(cluster)
        self._server_hangs = False
        self._connected_at = -math.inf
        self._may_be_isolated = True
        self._intervals_alone = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._asking: set[asyncio.Task[None]] = set()
        self.member = ClusterMember(
            own_id,
            fleet,
            settings,
            interval_s=cluster.interval_s,
            clock=clock,
            wake=self._queued.set,
            snapshot_changed=self._snapshot_due.set,
            ask=self._ask,
        )
        self._usage: UsageExchange | None = None
        if key_limits is not None:
            self._usage = UsageExchange(own_id, key_limits, lambda: set(self.member.view))

    def __repr__(self) -> str:
        return f"<ClusterBus {self._base} {self.member!r}>"

    @property
    def server(self) -> str:
        """The NATS server of the connection, without user and password; "" if there is none."""
        return self._client.server

    async def start(self) -> None:
        """Connect in the background: until NATS can be reached, the coordinator is alone."""
        for name, work in (
            ("cluster connection", self._connect()),
            ("cluster writer", self._write()),
            ("cluster snapshots", self._publish_snapshots()),
            ("cluster usage", self._publish_usage()),
        ):
            task = asyncio.create_task(work, name=name)
            task.add_done_callback(_log_failure)
            self._tasks.append(task)

    async def stop(self) -> None:
        """Tell the other coordinators that this one leaves, and close the connection."""
        # No snapshot may follow the one that says that this coordinator leaves.
        await _cancel([*self._tasks, *self._asking])
        try:
            async with asyncio.timeout(STOP_S):
                if self.member.is_connected:
                    await self._send_queued()
                    await self._report_usage()
                    await self._publish_snapshot(leaving=True)
                    await self._client.flush()
        except (OSError, NatsError):  # not sent; the others notice that this one is silent
            pass
        self.member.set_connected(False)
        try:
            async with asyncio.timeout(STOP_S):
                await self._client.close()
        except TimeoutError:  # NATS does not read; the connection ends with the process
            pass

    async def wait_until_idle(self, timeout_s: float) -> None:
        """Wait at most `timeout_s` until no job of another coordinator runs here."""
        try:
            async with asyncio.timeout(timeout_s):
                while len(self.member.holder):
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            return

    # --- connection -------------------------------------------------------------------------------

    async def _connect(self) -> None:
        """Connect until the stop.

        The client reconnects after a lost connection, but closes itself after an error of the
        server, such as a password that was changed or credentials that expired.
        """
        while True:
            self._client, closed = NatsClient(self._cluster), asyncio.Event()
            try:
                await self._open(closed)
            except NatsError as error:
                await self._on_error(error)
                await self._client.close()
            else:
                await closed.wait()
                if (reason := self._client.last_error) is not None:
                    await self._on_error(reason)
            await self._on_disconnected()
            await asyncio.sleep(RECONNECT_WAIT_S)

    async def _open(self, closed: asyncio.Event) -> None:
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
        own_id = self.member.own_id.hex()
        receivers = {
            f"to.{own_id}": self._receiver(self.member.receive_batch),
            "agents": self._receiver(self.member.receive_snapshot),
            f"takeover.{own_id}": self._on_takeover,
            f"{NO_RESPONDERS}.{own_id}.*": self._on_no_responders,
        }
        if self._usage is not None:
            receivers["usage"] = self._receiver(self._usage.receive)
        for subject, receive in receivers.items():
            await self._client.subscribe(
                f"{self._base}.{subject}", cb=receive, pending_bytes_limit=RECEIVE_BUFFER_BYTES
            )
        await self._on_connected()

    def _receiver(
        self, receive: Callable[[bytes], None]
    ) -> Callable[[Msg], Coroutine[None, None, None]]:
        async def on_message(message: Msg) -> None:
            try:
                receive(message.data)
            except MalformedPeerMessage as error:
                self._log.log(logging.WARNING, "malformed cluster message", error=str(error))

        return on_message

    async def _on_takeover(self, message: Msg) -> None:
        try:
            answer = self.member.answer_takeover(message.data)
        except MalformedPeerMessage as error:
            self._log.log(logging.WARNING, "malformed cluster message", error=str(error))
        else:
            if message.reply.startswith(f"{self._base}.inbox."):
                await self._publish(message.reply.removeprefix(f"{self._base}."), answer)

    async def _on_no_responders(self, message: Msg) -> None:
        """Note that NATS had nobody to deliver a message to, as its subject names."""
        is_report = message.headers is not None and message.headers.get("Status") == _STATUS
        if is_report and not self._others_may_reconnect:
            with contextlib.suppress(ValueError):  # anyone with the credentials can send this
                self.member.set_unreachable(bytes.fromhex(message.subject.rpartition(".")[2]))

    def _ask(
        self, coordinator: bytes, message: bytes, answered: Callable[[bytes | None], None]
    ) -> None:
        """Send a takeover request; call `answered` with the answer, or None if there is none."""
        if len(self._asking) >= MAX_ASKING:
            answered(None)
            return

        async def ask() -> None:
            subject = f"{self._base}.takeover.{coordinator.hex()}"
            answer = None
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    answer = await self._request(subject, message)
            except (NatsError, OSError) as error:
                self._log.log(
                    logging.WARNING,
                    "no answer from coordinator",
                    coordinator=coordinator.hex(),
                    error=describe_error(error),
                )
            answered(answer)

        task = asyncio.create_task(ask(), name="cluster takeover")
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        task.add_done_callback(_log_failure)

    async def _request(self, subject: str, message: bytes) -> bytes:
        while True:
            try:
                reply = await self._client.request(subject, message, timeout=ANSWER_TIMEOUT_S)
            except NoRespondersError:
                if not self._others_may_reconnect:
                    raise
                await asyncio.sleep(ASK_AGAIN_S)
            else:
                return bytes(reply.data)

    @property
    def _others_may_reconnect(self) -> bool:
        return asyncio.get_running_loop().time() - self._connected_at < RECONNECT_S

    async def _on_connected(self) -> None:
        log.info(
            "cluster connected",
            coordinator=self.member.own_id.hex(),
            prefix=self._cluster.prefix,
            server=self.server,
        )
        self._server_hangs = False
        self._connected_at = asyncio.get_running_loop().time()
        # The others ignore jobs of a coordinator of which they have no snapshot.
        await self._publish_snapshot()
        self.member.set_connected(True)

    async def _on_disconnected(self) -> None:
        if self.member.is_connected:
            log.warning("cluster disconnected")
        self.member.set_connected(False)

    async def _on_error(self, error: Exception) -> None:
        self._log.log(logging.WARNING, "cluster error", error=describe_error(error))

    # --- sending ----------------------------------------------------------------------------------

    async def _publish(self, subject: str, message: bytes, reply: str = "") -> None:
        """Publish a message; lose it if the connection is lost: renewals repair that."""
        try:
            await self._client.publish(f"{self._base}.{subject}", message, reply)
        except NatsError as error:
            await self._on_error(error)
        # The client ignores a cancellation while it waits for a connection that accepts nothing.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError

    async def _publish_snapshot(self, *, leaving: bool = False) -> None:
        for message in self.member.snapshot(leaving=leaving):
            await self._publish("agents", message)

    async def _report_usage(self) -> None:
        if self._usage is not None:
            for message in self._usage.messages():
                await self._publish("usage", message)

    async def _publish_usage(self) -> None:
        """Report several times per interval which API keys were used, if they have limits."""
        while self._usage is not None:
            await asyncio.sleep(self._cluster.interval_s / REPORTS_PER_INTERVAL)
            if self.member.is_connected:
                await self._report_usage()
            else:
                self._usage.disconnected()

    async def _write(self) -> None:
        while True:
            await self._queued.wait()
            self._queued.clear()
            await self._send_queued()
            if not len(self.member.holder):
                self._idle.set()

    async def _send_queued(self) -> None:
        while self.member.is_connected and (next_message := self.member.next_message()):
            peer, message = next_message
            await self._publish(f"to.{peer.hex()}", message, self._no_responders + peer.hex())

    def _report_isolation(self) -> None:
        """Log once if no other coordinator was found: a mistyped prefix is another cluster."""
        if len(self.member.view):
            self._may_be_isolated = False
        if not (self._may_be_isolated and self.member.is_connected):
            return
        self._intervals_alone += 1
        if self._intervals_alone > SILENT_INTERVALS:
            self._may_be_isolated = False
            cluster = self._cluster
            log.info("no other coordinator found", prefix=cluster.prefix, servers=cluster.servers)

    async def _check_server(self) -> None:
        """Count a server that has stopped without closing the connection as disconnected.

        Otherwise all coordinators would seem to have crashed. The client's own pings take longer.
        """
        if self._server_hangs:
            if await self._server_answers():
                self._server_hangs = False
                await self._on_connected()
        elif self.member.is_connected and self.member.view.all_silent:
            self._server_hangs = not await self._server_answers()
            if self._server_hangs:
                await self._on_disconnected()

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

    async def _publish_snapshots(self) -> None:
        """Publish a snapshot at each interval and soon after a change."""
        loop = asyncio.get_running_loop()
        tick_at = loop.time()
        while True:
            self._snapshot_due.clear()
            if loop.time() >= tick_at:
                await self._check_server()
                self.member.tick()
                self._report_isolation()
                tick_at = loop.time() + self._cluster.interval_s
            started_at = loop.time()
            if self.member.is_connected:
                await self._publish_snapshot()
            pause_s = max(SNAPSHOT_PAUSE_S, (loop.time() - started_at) * SNAPSHOT_PAUSE_FACTOR)
            await asyncio.sleep(min(pause_s, self._cluster.interval_s / 2))
            try:
                async with asyncio.timeout_at(tick_at):
                    await self._snapshot_due.wait()
            except TimeoutError:
                pass


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they end, for `STOP_S` at most: the NATS client may ignore a cancellation.

    It waits with `asyncio.wait_for`, which ignores one that arrives together with the result.
    """
    running = set(tasks)
    for _ in range(int(STOP_S / CANCEL_AGAIN_S)):
        for task in running:
            task.cancel()
        if running:
            _ended, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_S)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.failure("background task failed", error, task=task.get_name())
