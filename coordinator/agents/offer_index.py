"""Agents by the models that they offer: a request visits only the agents of its model. No I/O."""

from collections.abc import Collection
from typing import Generic, TypeVar

from provider_agent.coordinator.agents.routing import Candidate

AgentT = TypeVar("AgentT", bound=Candidate)


class OfferIndex(Generic[AgentT]):
    """The agents of a fleet, by model; at most one agent of each public key."""

    def __init__(self) -> None:
        self._by_model: dict[str, dict[bytes, AgentT]] = {}
        self._models: dict[bytes, Collection[str]] = {}
        """Public key → the models for which its agent is in `_by_model`."""

    def __repr__(self) -> str:
        return f"<OfferIndex models={len(self._by_model)} agents={len(self._models)}>"

    def update(self, public_key: bytes, agent: AgentT | None) -> None:
        """Replace what is known of a key, after its agent or the agent's offers have changed.

        Args:
            public_key: the key.
            agent: the agent that has it now; None if no agent has it.
        """
        for model_id in self._models.pop(public_key, ()):
            agents = self._by_model[model_id]
            del agents[public_key]
            if not agents:
                del self._by_model[model_id]
        if agent is None or agent.offers is None or not agent.offers.models:
            return
        self._models[public_key] = agent.offers.models
        for model_id in agent.offers.models:
            self._by_model.setdefault(model_id, {})[public_key] = agent

    def offering(self, model_id: str) -> Collection[AgentT]:
        """Return the agents that offer a model; valid until the next `update`."""
        agents = self._by_model.get(model_id)
        return () if agents is None else agents.values()
