"""One coordinator of a cluster: its view of the others, and its two roles. No I/O.

`bus` feeds received messages to `receive_batch` and `receive_snapshot`, sends what `next_message`
and `snapshot` return, and calls `tick` once per interval.
"""

import functools
import logging
from collections.abc import Callable, Collection, Iterator

from provider_agent.coordinator.agents.fleet import Fleet
from provider_agent.coordinator.agents.snapshots import ClusterSnapshot, PeerSnapshot
from provider_agent.coordinator.cluster.edge import EdgeJobs
from provider_agent.coordinator.cluster.entry_caches import EncodedEntries
from provider_agent.coordinator.cluster.holder import HolderJobs
from provider_agent.coordinator.cluster.ids import process_of, tag_of
from provider_agent.coordinator.cluster.messages import (
    AgentEntry,
    EdgeFrame,
    PeerFrame,
    decode_batch,
    decode_snapshot,
    encode_batch,
    encode_snapshot,
)
from provider_agent.coordinator.cluster.remote_agent import RemoteAgent
from provider_agent.coordinator.cluster.takeover import AskCoordinator, Takeovers
from provider_agent.coordinator.cluster.view import (
    MAX_COORDINATORS,
    SILENT_INTERVALS,
    ClusterView,
)
from provider_agent.coordinator.connections.limited_log import LimitedLog
from provider_agent.coordinator.sessions.detached_session import DetachedSession
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.event_log import EventLogger
from provider_agent.protocol.frames import Hello
from provider_agent.protocol.limits import BATCH_BYTES

log = EventLogger(__name__)


class ClusterMember:
    """The state of this coordinator in the cluster; implements `RemoteAgents`.

    Args:
        own_id: 16 random bytes, new at each start.
        fleet: the agents that are connected here; the remote ones are added to its routing.
        settings: the coordinator's settings.
        interval_s: the interval of snapshots and renewals.
        clock: monotonic, in seconds.
        wake: called when messages are queued.
        snapshot_changed: called when a new snapshot should be sent soon.
        ask: sends a request to a coordinator.

    Attributes:
        own_id: this coordinator.
        is_connected: whether messages can be sent now.
        edge: the jobs that were sent to other coordinators.
        holder: the jobs of other coordinators.
        view: the other coordinators.
        revision: the revision of the latest snapshot.
    """

    def __init__(
        self,
        own_id: bytes,
        fleet: Fleet,
        settings: CoordinatorSettings,
        *,
        interval_s: float,
        clock: Callable[[], float],
        wake: Callable[[], None],
        snapshot_changed: Callable[[], None],
        ask: AskCoordinator,
    ) -> None:
        self.own_id = own_id
        self.is_connected = False
        self._fleet = fleet
        self._clock = clock
        self._log = LimitedLog(log, clock)
        self._wake = wake
        self._snapshot_changed = snapshot_changed
        self._resume_s = settings.resume_ms / 1000
        self._disconnected_at = clock()
        self.revision = 0
        self._entries = EncodedEntries()
        self._waiting: dict[bytes, None] = {}
        """The coordinators for which frames may be queued."""
        self.view = ClusterView(own_id, self._new_agent, interval_s, clock)
        self.edge = EdgeJobs(
            window_bytes=settings.window_bytes,
            clock=clock,
            wake=self._queue,
            job_ended=fleet.job_ended,
        )
        self.holder = HolderJobs(
            accept=fleet.accept,
            lease_s=interval_s * SILENT_INTERVALS,
            clock=clock,
            wake=self._queue,
        )
        self._takeovers = Takeovers(
            own_id,
            self.view,
            self.edge,
            self.holder,
            is_connected=lambda: self.is_connected,
            release=fleet.release,
            ask=ask,
            clock=clock,
        )
        fleet.offers.remote = self
        fleet.set_local_change_callback(snapshot_changed)

    def __repr__(self) -> str:
        state = "connected" if self.is_connected else "disconnected"
        return (
            f"<ClusterMember {self.own_id.hex()} {state} {self.view!r} {self.edge!r} "
            f"{self.holder!r}>"
        )

    def _new_agent(self, holder: bytes, entry: AgentEntry) -> RemoteAgent:
        def is_reachable() -> bool:
            is_reachable = self.is_connected and self.view.is_reachable(holder)
            return is_reachable and not self.edge.is_full(holder)

        return RemoteAgent(holder, entry, self.edge.submit, is_reachable)

    def describe(self) -> ClusterSnapshot:
        """Return the current state, for metrics and readiness."""
        return ClusterSnapshot(
            connected=self.is_connected,
            coordinators=len(self.view),
            agents=len(self.view.agents()),
            sent_jobs=len(self.edge),
            received_jobs=len(self.holder),
        )

    def coordinators(self) -> Iterator[PeerSnapshot]:
        """Yield the state of each other coordinator; the caller may wait in between."""
        sent, received = self.edge.by_holder(), self.holder.by_edge()
        for peer in self.view:
            if peer not in self.view:  # it has left meanwhile
                continue
            agents = self.view.agents_of(peer)
            yield PeerSnapshot(
                coordinator=peer.hex(),
                agents=len(agents),
                models=len({model for agent in agents for model in agent.offers.models}),
                silence_s=round(self.view.silence_s(peer), 1),
                sent_jobs=sent[peer],
                received_jobs=received[peer],
            )

    @property
    def can_hand_over(self) -> bool:
        """Whether another coordinator can take over the agents that are connected here."""
        return self.is_connected and len(self.view) > 0

    def agents(self) -> list[RemoteAgent]:
        """Return the agents of the other coordinators."""
        return self.view.agents()

    def offering(self, model_id: str) -> Collection[RemoteAgent]:
        """Return the agents of the other coordinators that offer a model."""
        return self.view.offering(model_id)

    # --- takeover of sessions ---------------------------------------------------------------------

    def must_wait(self, hello: Hello) -> bool:
        """Whether jobs of an agent have edges that cannot be asked; see `RemoteAgents`."""
        own = tag_of(self.own_id)
        return not self.is_connected and any(tag_of(job.job_id) != own for job in hello.live_jobs)

    def agent_joined(self, public_key: bytes, instance_id: str) -> None:
        """End the jobs that an agent cannot have any more; see `RemoteAgents`."""
        self.edge.agents_joined({public_key: process_of(instance_id)}, None)

    def take_over(
        self, hello: Hello, session_id: bytes, done: Callable[[DetachedSession | None], None]
    ) -> bool:
        """Ask for the jobs of a session that an agent resumes here; see `RemoteAgents`."""
        return self._takeovers.start(hello, session_id, done)

    def answer_takeover(self, message: bytes) -> bytes:
        """Release what this coordinator has of a session; return the answer.

        Raises:
            MalformedPeerMessage: the message is invalid.
        """
        return self._takeovers.answer(message)

    # --- received messages ------------------------------------------------------------------------

    def receive_batch(self, message: bytes) -> None:
        """Process frames of another coordinator; ignore those of one that is not in the view.

        Raises:
            MalformedPeerMessage: the message is invalid.
        """
        batch = decode_batch(message)
        if batch.sender not in self.view:
            return
        for frame in batch.frames:
            if isinstance(frame, EdgeFrame):
                self.holder.receive(batch.sender, frame)
            else:
                self.edge.receive(batch.sender, frame)

    def receive_snapshot(self, message: bytes) -> None:
        """Process a snapshot, or a part of one.

        Raises:
            MalformedPeerMessage: the message is invalid.
        """
        snapshot = decode_snapshot(message, self.view.entry_decoder)
        sender = snapshot.sender
        was_known = self.view.has_snapshot(sender)
        was_reachable = self.view.is_reachable(sender)
        change = self.view.receive(snapshot)
        if not was_known and sender in self.view:
            self._log.log(logging.INFO, "coordinator joined the cluster", coordinator=sender.hex())
            self._snapshot_changed()  # it does not know this coordinator yet
        elif was_known and not was_reachable and self.view.is_reachable(sender):
            self.edge.set_lost(sender, lost=False)
        elif self.view.ignores(snapshot):
            self._log.log(
                logging.WARNING,
                "coordinator ignored",
                coordinator=sender.hex(),
                reason=f"more than {MAX_COORDINATORS} others",
            )
        if change is None:
            return
        if change.left:
            self._log.log(logging.INFO, "coordinator left the cluster", coordinator=sender.hex())
            self._lose(sender)
        for public_key, process in change.joined.items():
            self._fleet.end_older_session(public_key, functools.partial(_is_older, process))
        self.edge.agents_joined(change.joined, sender)
        for public_key, models in change.offers.items():
            self._fleet.remote_offers_changed(public_key, models)
        self._fleet.remote_agents_changed(self.view.take_left_models())

    def set_unreachable(self, peer: bytes) -> None:
        """Send no jobs to a coordinator until its next snapshot: a message did not arrive."""
        if self.view.set_unreachable(peer):
            self._log.log(logging.WARNING, "coordinator unreachable", coordinator=peer.hex())
            self.edge.set_lost(peer, lost=True)

    # --- messages to send -------------------------------------------------------------------------

    def _queue(self, peer: bytes) -> None:
        self._waiting[peer] = None
        self._wake()

    def next_message(self) -> tuple[bytes, bytes] | None:
        """Remove and return a message and its receiver; None when nothing is queued.

        The coordinators take turns, one message each.
        """
        while self._waiting:
            peer = next(iter(self._waiting))
            del self._waiting[peer]
            frames: list[PeerFrame] = [
                *self.edge.next_frames(peer, BATCH_BYTES),
                *self.holder.next_frames(peer, BATCH_BYTES),
            ]
            if frames:
                self._waiting[peer] = None
                return peer, encode_batch(self.own_id, frames)
        return None

    def snapshot(self, *, leaving: bool = False) -> list[bytes]:
        """Return the messages that tell the other coordinators about the agents here."""
        self.revision += 1
        agents = [] if leaving else self._fleet.accepting()
        entries = self._entries.encode(agents)
        return encode_snapshot(self.own_id, self.revision, entries, leaving=leaving)

    # --- time and connection ----------------------------------------------------------------------

    def tick(self) -> None:
        """Renew jobs, and end those of coordinators that are silent; called once per interval.

        While this coordinator is disconnected, all others are silent. Their jobs then continue when
        the connection returns within the time for which agents may resume sessions.
        """
        if not self.is_connected:
            if self._clock() - self._disconnected_at > self._resume_s:
                for peer in self.view:
                    self.view.drop(peer)
                    self._lose(peer)
                self.edge.expire(0)
            return
        for peer in self.view.expire():
            self._log.log(logging.WARNING, "coordinator silent", coordinator=peer.hex())
            self._lose(peer)
        self.holder.expire()
        self.edge.expire(self._resume_s)
        self.edge.renew(self.view)

    def set_connected(self, connected: bool) -> None:
        """Record whether messages can be sent."""
        if connected is self.is_connected:
            return
        self.is_connected = connected
        if connected:
            self.view.restart()
            self.holder.restart_leases()
            self.edge.renew(self.view)
            self._snapshot_changed()
            self._wake()
        else:
            self._disconnected_at = self._clock()
        self._fleet.remote_agents_changed(self.view.take_left_models())

    def _lose(self, peer: bytes) -> None:
        self.edge.lose_holder(peer)
        self.holder.drop_edge(peer)
        self._waiting.pop(peer, None)
        self._fleet.remote_agents_changed(self.view.take_left_models())


def _is_older(process: int, instance_id: str) -> bool:
    return process_of(instance_id) != process
