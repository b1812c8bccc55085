"""Which agents of a fleet can receive jobs, and what they offer. No I/O."""

from collections.abc import Iterable, Mapping

from provider_agent.coordinator.agents.connected_agent import ConnectedAgent
from provider_agent.coordinator.agents.model_names import offered_instead
from provider_agent.coordinator.agents.offer_index import OfferIndex
from provider_agent.coordinator.agents.readiness import why_not_ready
from provider_agent.coordinator.agents.routable_agent import (
    NO_REMOTE_AGENTS,
    RemoteAgents,
    RoutableAgent,
)
from provider_agent.protocol.formats import Operation, WireFormat


class FleetOffers:
    """The offers of the agents that can receive jobs, wherever they are connected.

    Args:
        agents: public key → the agent that is connected here and receives the new jobs. After each
            change of it, or of an agent's offers, call `update`.

    Attributes:
        remote: the agents of other coordinators.
        only_remote: whether the agents that are connected here receive no more jobs, because this
            coordinator stops.
    """

    def __init__(self, agents: Mapping[bytes, ConnectedAgent]) -> None:
        self._agents = agents
        self._index = OfferIndex[ConnectedAgent]()
        self.remote: RemoteAgents = NO_REMOTE_AGENTS
        self.only_remote = False

    def __repr__(self) -> str:
        return f"<FleetOffers {self._index!r}>"

    def update(self, public_key: bytes) -> None:
        """Note that the agent with a key has changed here, or its offers."""
        self._index.update(public_key, self._agents.get(public_key))

    def agents(self) -> Iterable[RoutableAgent]:
        """Return the agents that can receive jobs; of one key, the one that is connected here."""
        if self.only_remote:
            yield from self.remote.agents()
            return
        yield from self._agents.values()
        for agent in self.remote.agents():
            if not self._serves_here(agent):
                yield agent

    def agents_with(self, model_id: str) -> list[RoutableAgent]:
        """Return those of `agents` that offer a model."""
        remote = self.remote.offering(model_id)
        if self.only_remote:
            return list(remote)
        others = (agent for agent in remote if not self._serves_here(agent))
        return [*self._index.offering(model_id), *others]

    def _serves_here(self, remote: RoutableAgent) -> bool:
        """Whether a remote agent is connected here too, has sent its offers and does not drain.

        One that drains may have a successor there.
        """
        local = self._agents.get(remote.public_key)
        return local is not None and local.offers is not None and not local.draining

    def has_operation(self, model_id: str, operation: Operation) -> bool:
        """Whether an agent offers an operation of a model."""
        tables = (agent.offers for agent in self.agents_with(model_id))
        return any(
            table is not None and operation in table.models.get(model_id, ()) for table in tables
        )

    def models(self, wire_format: WireFormat) -> list[str]:
        """Return the ids of all models that an agent offers in this format, sorted."""
        found: set[str] = set()
        for agent in self.agents():
            if agent.offers is not None:
                found |= agent.offers.models_for(wire_format)
        return sorted(found)

    def why_unroutable(self, model_id: str) -> str:
        """Return why an offered model receives no jobs, as one sentence, or ""."""
        tables = (agent.offers for agent in self.agents() if agent.offers is not None)
        reasons = (table.unroutable.get(model_id, "") for table in tables)
        return next(filter(None, reasons), "")

    def why_not_offered(self, model_id: str, wire_format: WireFormat) -> str:
        """Return why an offered model is unroutable, or else a clause with the offered models."""
        return self.why_unroutable(model_id) or offered_instead(self.models(wire_format))

    def why_not_ready(self) -> str:
        """Return why no agent can receive a job now; "" if one can, even if all are busy."""
        return why_not_ready(self.agents())
