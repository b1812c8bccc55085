"""Spares both sides of a snapshot the work for agents that have not changed. No I/O."""

from collections.abc import Iterable, Iterator
from typing import Final

from provider_agent.coordinator.agents.connected_agent import ConnectedAgent
from provider_agent.coordinator.cluster.ids import process_of
from provider_agent.coordinator.cluster.messages import AgentEntry, decode_entry, encode_entry
from provider_agent.coordinator.cluster.remote_agent import entry_of
from provider_agent.coordinator.sessions.offers import OfferTable

MAX_ENTRIES: Final = 16_384
"""The most entries of another coordinator that are kept: a broken one may repeat parts."""


class EncodedEntries:
    """The entries in the latest snapshot of this coordinator, by public key."""

    def __init__(self) -> None:
        self._latest: dict[bytes, tuple[object, bytes]] = {}
        """Public key → everything that the entry depends on, and the encoded entry."""

    def __repr__(self) -> str:
        return f"<EncodedEntries {len(self._latest)}>"

    def encode(self, agents: Iterable[ConnectedAgent]) -> Iterator[bytes]:
        """Yield the entry of each agent that has offers; read it to the end."""
        older, self._latest = self._latest, {}
        for agent in agents:
            if (offers := agent.offers) is None:
                continue
            state = _state(agent, offers)
            known = older.get(agent.public_key)
            if known is None or known[0] != state:
                process = process_of(agent.instance_id)
                entry = entry_of(agent, offers, receipts=agent.sends_receipts, process=process)
                known = state, encode_entry(entry)
            self._latest[agent.public_key] = known
            yield known[1]


def _state(agent: ConnectedAgent, offers: OfferTable) -> object:
    """Return everything that the entry of an agent depends on; to be compared."""
    jobs = tuple(map(agent.in_flight_of, offers.models)) if agent.in_flight else ()
    return (
        offers,
        agent.heartbeat.current,
        agent.in_flight,
        jobs,
        agent.draining,
        agent.overdue,
        agent.send_queue_full,
        agent.sends_receipts,
        agent.instance_id,
    )


class DecodedEntries:
    """The entries in the latest snapshot of another coordinator, by their encoded form.

    An entry that is encoded as before is the same object as before.
    """

    def __init__(self) -> None:
        self._older: dict[bytes, AgentEntry] = {}
        self._newer: dict[bytes, AgentEntry] = {}

    def __repr__(self) -> str:
        return f"<DecodedEntries older={len(self._older)} newer={len(self._newer)}>"

    def start(self) -> None:
        """Begin a snapshot; an incomplete one is dropped."""
        self._newer = {}

    def decode(self, encoded: bytes) -> AgentEntry:
        """Decode an entry of the snapshot.

        Raises:
            MalformedPeerMessage: it is invalid.
        """
        entry = self._older.get(encoded)
        if entry is None:
            entry = decode_entry(encoded)
        if len(self._newer) < MAX_ENTRIES:
            self._newer[encoded] = entry
        return entry

    def complete(self) -> None:
        """Keep the entries of the snapshot for the next one."""
        self._older, self._newer = self._newer, {}
