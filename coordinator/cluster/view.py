"""Which agents the other coordinators have, according to their snapshots. No I/O.

A coordinator that is silent for three intervals is dropped with its agents. Snapshots in several
parts count when all parts have arrived in order; otherwise the older snapshot applies, until the
next interval brings another one.
"""

from collections.abc import Callable, Collection, Container, Iterator
from typing import Final

import msgspec
from msgspec import Struct

from provider_agent.coordinator.agents.offer_index import OfferIndex
from provider_agent.coordinator.cluster.entry_caches import DecodedEntries
from provider_agent.coordinator.cluster.ids import tag_of
from provider_agent.coordinator.cluster.messages import AgentEntry, Snapshot, decode_entry
from provider_agent.coordinator.cluster.remote_agent import RemoteAgent

SILENT_INTERVALS: Final = 3
"""One lost or late snapshot must not end the jobs of a coordinator's agents."""

MAX_COORDINATORS: Final = 64
"""The most other coordinators; snapshots of further ones are ignored. Every coordinator reads the
snapshots of all others, so that a cluster of many more would be of no use."""

MAX_AGENTS: Final = 16_384
"""The most agents of one coordinator; the rest of its snapshot is ignored."""


class _Coordinator(Struct):
    """What is known of one coordinator; `parts` are those of the snapshot that arrives now."""

    heard_at: float
    is_reachable: bool
    agents: dict[bytes, RemoteAgent]
    revision: int = 0
    parts_revision: int = 0
    next_part: int = 0
    parts: list[AgentEntry] = []
    entries: DecodedEntries = msgspec.field(default_factory=DecodedEntries)


class ViewChange(Struct, frozen=True):
    """What a snapshot changed.

    Attributes:
        offers: public key → the models whose offers are new.
        left: whether the coordinator has left the cluster.
        joined: public key → process of the agents that were not connected to it before.
    """

    offers: dict[bytes, list[str]]
    left: bool = False
    joined: dict[bytes, int] = {}


class ClusterView:
    """The other coordinators and their agents.

    Args:
        own_id: this coordinator, whose own snapshots are ignored.
        new_agent: creates an agent from its holder and its entry.
        interval_s: the interval of snapshots.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        own_id: bytes,
        new_agent: Callable[[bytes, AgentEntry], RemoteAgent],
        interval_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._own_id = own_id
        self._new_agent = new_agent
        self._silent_s = interval_s * SILENT_INTERVALS
        self._clock = clock
        self._coordinators: dict[bytes, _Coordinator] = {}
        self._by_key: dict[bytes, RemoteAgent] = {}
        self._index = OfferIndex[RemoteAgent]()
        """The offers of `_by_key`."""
        self._left_models: set[str] = set()

    def __repr__(self) -> str:
        return f"<ClusterView coordinators={len(self)} agents={len(self._by_key)}>"

    def __len__(self) -> int:
        return len(self._coordinators)

    def __contains__(self, coordinator: object) -> bool:
        return coordinator in self._coordinators

    def __iter__(self) -> Iterator[bytes]:
        return iter(list(self._coordinators))

    def silence_s(self, coordinator: bytes) -> float:
        """Return the seconds since the last snapshot of a coordinator that is in the view."""
        return self._clock() - self._coordinators[coordinator].heard_at

    def agents_of(self, coordinator: bytes) -> list[RemoteAgent]:
        """Return the agents in the last snapshot of a coordinator that is in the view."""
        return list(self._coordinators[coordinator].agents.values())

    def find(self, tags: Container[bytes]) -> list[bytes]:
        """Return the coordinators with one of these tags."""
        return [coordinator for coordinator in self._coordinators if tag_of(coordinator) in tags]

    def holder_of(self, public_key: bytes) -> bytes | None:
        """Return the coordinator to which an agent is connected, or None."""
        agent = self._by_key.get(public_key)
        return None if agent is None else agent.holder

    def agents(self) -> list[RemoteAgent]:
        """Return every agent once: of two coordinators with one key, the last that added it."""
        return list(self._by_key.values())

    def offering(self, model_id: str) -> Collection[RemoteAgent]:
        """Return those of `agents` that offer a model; valid until the next change of the view."""
        return self._index.offering(model_id)

    def take_left_models(self) -> set[str]:
        """Return the models of the agents that were removed since the last call."""
        left, self._left_models = self._left_models, set()
        return left

    def entry_decoder(self, sender: bytes, part: int) -> Callable[[bytes], AgentEntry]:
        """Return what decodes the entries in a part of a snapshot."""
        coordinator = self._coordinators.get(sender)
        if coordinator is None:
            return decode_entry
        if part == 0:
            coordinator.entries.start()
        return coordinator.entries.decode

    def receive(self, snapshot: Snapshot) -> ViewChange | None:
        """Process a part of a snapshot; return what it changed, or None if nothing is new yet."""
        sender = snapshot.sender
        if sender == self._own_id:
            return None
        if snapshot.leaving:
            return ViewChange({}, left=True) if self.drop(sender) else None
        if not self.hear(sender):
            return None
        coordinator = self._coordinators[sender]
        agents = _complete(coordinator, snapshot)
        return None if agents is None else self._replace(sender, coordinator, agents)

    def hear(self, sender: bytes) -> bool:
        """Note that a coordinator is alive; return False if it is one too many."""
        coordinator = self._coordinators.get(sender)
        if coordinator is None:
            if len(self._coordinators) >= MAX_COORDINATORS:
                return False
            coordinator = self._coordinators[sender] = _Coordinator(self._clock(), True, {})
        coordinator.heard_at, coordinator.is_reachable = self._clock(), True
        return True

    def has_snapshot(self, coordinator: bytes) -> bool:
        """Whether a snapshot of a coordinator, or a part of one, has arrived."""
        known = self._coordinators.get(coordinator)
        return known is not None and known.parts_revision > 0

    def is_reachable(self, coordinator: bytes) -> bool:
        """Whether messages to a coordinator arrive, as far as is known."""
        known = self._coordinators.get(coordinator)
        return known is not None and known.is_reachable

    def set_unreachable(self, coordinator: bytes) -> bool:
        """Note that a message did not arrive; return whether that is new.

        The coordinator counts as reachable again when it is heard.
        """
        was_reachable = self.is_reachable(coordinator)
        if was_reachable:
            self._coordinators[coordinator].is_reachable = False
        return was_reachable

    def ignores(self, snapshot: Snapshot) -> bool:
        """Whether the sender of a snapshot is one coordinator too many."""
        is_other = snapshot.sender != self._own_id and snapshot.sender not in self
        return is_other and not snapshot.leaving

    def _replace(
        self, sender: bytes, coordinator: _Coordinator, entries: list[AgentEntry]
    ) -> ViewChange:
        older, coordinator.agents = coordinator.agents, {}
        joined: dict[bytes, int] = {}
        changed: dict[bytes, list[str]] = {}
        for entry in entries[:MAX_AGENTS]:
            key = entry.public_key
            agent = older.pop(key, None)
            if agent is None:
                agent = self._by_key[key] = self._new_agent(sender, entry)
                self._index.update(key, agent)
                changed[key] = list(agent.offers.models)
                joined[key] = entry.process
            else:
                offers = agent.offers
                if models := agent.update(entry):
                    changed[key] = models
                if agent.offers is not offers and self._by_key.get(key) is agent:
                    self._index.update(key, agent)
            coordinator.agents[key] = agent
        for agent in older.values():
            self._forget(agent)
        return ViewChange(changed, joined=joined)

    def _forget(self, agent: RemoteAgent) -> None:
        """Remove an agent; another coordinator that has it too replaces it."""
        if self._by_key.get(agent.public_key) is not agent:
            return
        del self._by_key[agent.public_key]
        self._left_models.update(agent.offers.models)
        for coordinator in self._coordinators.values():
            if (other := coordinator.agents.get(agent.public_key)) is not None:
                self._by_key[agent.public_key] = other
        self._index.update(agent.public_key, self._by_key.get(agent.public_key))

    def drop(self, sender: bytes) -> bool:
        """Remove a coordinator and its agents; return whether it was known."""
        coordinator = self._coordinators.pop(sender, None)
        if coordinator is None:
            return False
        for agent in coordinator.agents.values():
            self._forget(agent)
        return True

    @property
    def all_silent(self) -> bool:
        """Whether there are other coordinators, and all of them are silent but not unreachable."""
        now = self._clock()
        return bool(self._coordinators) and all(
            coordinator.is_reachable and now - coordinator.heard_at > self._silent_s
            for coordinator in self._coordinators.values()
        )

    def expire(self) -> list[bytes]:
        """Remove the silent coordinators, and return them."""
        now = self._clock()
        silent = [
            sender
            for sender, coordinator in self._coordinators.items()
            if now - coordinator.heard_at > self._silent_s
        ]
        for sender in silent:
            self.drop(sender)
        return silent

    def restart(self) -> None:
        """Count the silence of all coordinators from now on: the connection was interrupted."""
        now = self._clock()
        for coordinator in self._coordinators.values():
            coordinator.heard_at = now


def _complete(coordinator: _Coordinator, snapshot: Snapshot) -> list[AgentEntry] | None:
    """Add a part; return all agents of the snapshot if it was the last part, else None."""
    if snapshot.revision <= coordinator.revision:
        return None
    if snapshot.part == 0:
        coordinator.parts_revision, coordinator.next_part, coordinator.parts = (
            snapshot.revision,
            0,
            [],
        )
    if (snapshot.revision, snapshot.part) != (coordinator.parts_revision, coordinator.next_part):
        return None
    if len(coordinator.parts) <= MAX_AGENTS:
        coordinator.parts += snapshot.agents
    coordinator.next_part += 1
    if coordinator.next_part < snapshot.parts:
        return None
    agents, coordinator.parts = coordinator.parts, []
    coordinator.entries.complete()
    coordinator.revision = snapshot.revision
    return agents
