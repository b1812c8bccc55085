"""What the dispatcher needs of an agent, wherever its connection is."""

from collections.abc import Iterable
from typing import Final, Protocol

from provider_agent.coordinator.agents.routing import Candidate
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.protocol.job import Job


class RoutableAgent(Candidate, Protocol):
    """An agent that can receive jobs: connected here, or to another coordinator."""

    def submit(self, job: Job) -> RunningJob:
        """Queue a job for the agent.

        Call it after routing without an `await` in between, so that the agent is still connected.
        """
        ...


class RemoteAgents(Protocol):
    """The agents that are connected to other coordinators."""

    def agents(self) -> Iterable[RoutableAgent]:
        """Return the agents. Those that cannot be reached now are `overdue`."""
        ...


class NoRemoteAgents:
    """The remote agents of a coordinator that is not in a cluster."""

    def agents(self) -> Iterable[RoutableAgent]:
        """Return nothing."""
        return ()


NO_REMOTE_AGENTS: Final = NoRemoteAgents()
