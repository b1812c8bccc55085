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
from collections.abc import Callable, Coroutine, Iterable
from typing import Final

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from provider_agent.coordinator.agents.fleet import Fleet
from provider_agent.coordinator.cluster.connection import NatsConnection, Receivers
from provider_agent.coordinator.cluster.member import ClusterMember
from provider_agent.coordinator.cluster.messages import VERSION, MalformedPeerMessage
from provider_agent.coordinator.cluster.nats_client import describe_error
from provider_agent.coordinator.cluster.settings import ClusterSettings
from provider_agent.coordinator.cluster.usage import REPORTS_PER_INTERVAL, UsageExchange
from provider_agent.coordinator.cluster.view import SILENT_INTERVALS
from provider_agent.coordinator.connections.limited_log import LimitedLog
from provider_agent.coordinator.key_limits import KeyLimits
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.event_log import EventLogger

log = EventLogger(__name__)

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

CANCEL_AGAIN_S: Final = 0.1
"""The pause before a task that has ignored its cancellation is cancelled again."""

STOP_S: Final = 2.0
"""How long a stop waits until the last messages are sent."""


class ClusterBus:
    """Exchanges the messages of a `ClusterMember`; `start` and `stop` are called once each.

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
        self._connection = NatsConnection(
            cluster,
            self._base,
            self._log,
            connected=self._on_connected,
            disconnected=self._on_disconnected,
        )
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
        return self._connection.server

    async def start(self) -> None:
        """Connect in the background: until NATS can be reached, the coordinator is alone."""
        for name, work in (
            ("cluster connection", self._connection.run(self._receivers())),
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
                    await self._connection.flush()
        except (OSError, NatsError):  # not sent; the others notice that this one is silent
            pass
        self.member.set_connected(False)
        await self._connection.close()

    async def wait_until_idle(self, timeout_s: float) -> None:
        """Wait at most `timeout_s` until no job of another coordinator runs here."""
        try:
            async with asyncio.timeout(timeout_s):
                while len(self.member.holder):
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            return

    # --- receiving --------------------------------------------------------------------------------

    def _receivers(self) -> Receivers:
        own_id = self.member.own_id.hex()
        receivers = {
            f"to.{own_id}": self._receiver(self.member.receive_batch),
            "agents": self._receiver(self.member.receive_snapshot),
            f"takeover.{own_id}": self._on_takeover,
            f"{NO_RESPONDERS}.{own_id}.*": self._on_no_responders,
        }
        if self._usage is not None:
            receivers["usage"] = self._receiver(self._usage.receive)
        return receivers

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
                await self._connection.publish(message.reply.removeprefix(f"{self._base}."), answer)

    async def _on_no_responders(self, message: Msg) -> None:
        """Note that NATS had nobody to deliver a message to, as its subject names."""
        is_report = message.headers is not None and message.headers.get("Status") == _STATUS
        if is_report and not self._connection.others_may_reconnect:
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
            subject = f"takeover.{coordinator.hex()}"
            answer = None
            try:
                answer = await self._connection.request(subject, message, ANSWER_TIMEOUT_S)
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

    async def _on_connected(self) -> None:
        log.info(
            "cluster connected",
            coordinator=self.member.own_id.hex(),
            prefix=self._cluster.prefix,
            server=self.server,
        )
        # The others ignore jobs of a coordinator of which they have no snapshot.
        await self._publish_snapshot()
        self.member.set_connected(True)

    def _on_disconnected(self) -> None:
        if self.member.is_connected:
            log.warning("cluster disconnected")
        self.member.set_connected(False)

    # --- sending ----------------------------------------------------------------------------------

    async def _publish_snapshot(self, *, leaving: bool = False) -> None:
        for message in self.member.snapshot(leaving=leaving):
            await self._connection.publish("agents", message)

    async def _report_usage(self) -> None:
        if self._usage is not None:
            for message in self._usage.messages():
                await self._connection.publish("usage", message)

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
            await self._connection.publish(
                f"to.{peer.hex()}", message, self._no_responders + peer.hex()
            )

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

    async def _publish_snapshots(self) -> None:
        """Publish a snapshot at each interval and soon after a change."""
        loop = asyncio.get_running_loop()
        tick_at = loop.time()
        while True:
            self._snapshot_due.clear()
            if loop.time() >= tick_at:
                all_silent = self.member.is_connected and self.member.view.all_silent
                await self._connection.check(all_silent=all_silent)
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
