"""Whether the connected agents can run requests, for `/readyz`."""

from collections.abc import Iterable

from provider_agent.coordinator.agents.routing import Candidate


def why_not_ready(agents: Iterable[Candidate]) -> str:
    """Return why no agent can receive a job now; "" if one can, even if all are busy."""
    agents = list(agents)
    if not agents:
        return "no agent is connected"
    tables = [agent.offers for agent in agents if agent.offers is not None]
    offering = [agent for agent in agents if agent.offers is not None and agent.offers.models]
    if any(not (agent.draining or agent.overdue) for agent in offering):
        return ""
    if offering:
        return "every agent that offers a model is stopping or does not respond"
    unroutable = [reason for table in tables for reason in table.unroutable.values()]
    if unroutable:
        return f"the offered models receive no jobs: {unroutable[0]}"
    return "no connected agent offers a model"
