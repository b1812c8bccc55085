"""Why no agent can run a request, and whether the request may wait. No I/O."""

from collections.abc import Callable, Iterable, Mapping

from provider_agent.coordinator.agents.connected_agent import ConnectedAgent
from provider_agent.coordinator.agents.fleet_offers import FleetOffers
from provider_agent.coordinator.agents.missing_models import MissingModels
from provider_agent.coordinator.reason import Reason
from provider_agent.coordinator.sessions.detached_session import DetachedSession
from provider_agent.protocol.errors import ErrorCode
from provider_agent.protocol.formats import Operation


class ModelAvailability:
    """Which models can run soon, although no agent can run them now.

    Args:
        agents: public key → the agent that is connected here and receives the new jobs.
        detached: the sessions whose agents may return.
        offers: what the agents that can receive jobs offer.
        clock: monotonic, in seconds.

    Attributes:
        missing: the models that agents offered lately.
        had_agents: whether an agent has ever connected here.
    """

    def __init__(
        self,
        agents: Mapping[bytes, ConnectedAgent],
        detached: Iterable[DetachedSession],
        offers: FleetOffers,
        clock: Callable[[], float],
    ) -> None:
        self._agents = agents
        self._detached = detached
        self._offers = offers
        self.missing = MissingModels(clock)
        self.had_agents = False

    def __repr__(self) -> str:
        return f"<ModelAvailability had_agents={self.had_agents} {self.missing!r}>"

    def why_no_agent(self, model_id: str, operation: Operation, code: ErrorCode) -> Reason:
        """Return the cause behind the code for which no agent is eligible."""
        match code:
            case ErrorCode.MODEL_NOT_LOADED:
                if not (self.had_agents or any(self._offers.agents())):
                    return Reason.NO_AGENT
                is_unroutable = self._offers.why_unroutable(model_id)
                return Reason.UNROUTABLE if is_unroutable else Reason.NOT_OFFERED
            case ErrorCode.FORMAT_NOT_SUPPORTED:
                is_offered = self._offers.has_operation(model_id, operation)
                return Reason.STREAM_REQUIRED if is_offered else Reason.WRONG_OPERATION
            case ErrorCode.DRAINING:
                return Reason.PROVIDER_STOPPING
        if any(not agent.overdue for agent in self._offers.agents_with(model_id)):
            return Reason.QUEUE_TIMEOUT
        is_awaited = self.is_awaited(model_id)
        return Reason.PROVIDER_OFFLINE if is_awaited else Reason.MODEL_WITHDRAWN

    def is_awaited(self, model_id: str) -> bool:
        """Whether a request for a model that cannot run now may wait for it.

        It may if an agent offers the model, or the last one that did has disconnected lately. If
        agents have withdrawn it, it may be long until it returns.
        """
        if self._offers.agents_with(model_id) or any(
            session.offers is not None and model_id in session.offers.models
            for session in self._detached
        ):
            return True
        return self.missing.left_lately(model_id, awaits_offers=self._awaits_offers)

    def may_return(self, model_id: str) -> bool:
        """Whether the model may soon be available again."""
        used_lately = self.missing.used_lately(model_id, awaits_offers=self._awaits_offers)
        return used_lately or self.is_awaited(model_id)

    @property
    def _awaits_offers(self) -> bool:
        """Whether agents are expected to send their offers, but none has done so."""
        if not self.had_agents:
            return self.missing.awaits_first_agent
        agents = self._agents.values()
        return bool(agents) and all(agent.offers is None for agent in agents)
