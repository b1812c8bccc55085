"""What the dispatcher needs of an agent, wherever its connection is."""

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from provider_agent.coordinator.agents.routing import Candidate
from provider_agent.coordinator.sessions.detached_session import DetachedSession
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.protocol.frames import Hello
from provider_agent.protocol.job import Job


class RoutableAgent(Candidate, Protocol):
    """An agent that can receive jobs: connected here, or to another coordinator."""

    def submit(self, job: Job) -> RunningJob:
        """Queue a job for the agent.

        Call it after routing without an `await` in between, so that the agent is still connected.
        """
        ...


class RemoteAgents(Protocol):
    """The agents that are connected to other coordinators, and the jobs that they run."""

    def must_wait(self, hello: Hello) -> bool:
        """Whether jobs of an agent belong to other coordinators, and none can be reached now."""
        ...

    def agent_joined(self, public_key: bytes, instance_id: str) -> None:
        """Note that a process of an agent is connected here, with the jobs that it still has."""
        ...

    def take_over(
        self, hello: Hello, session_id: bytes, done: Callable[[DetachedSession | None], None]
    ) -> bool:
        """Ask the other coordinators for the jobs of a session that an agent resumes here.

        Args:
            hello: the agent's `Hello`; its signature is verified.
            session_id: the id of the new session.
            done: called later with the new session, which has the jobs that continue; or with None
                if the agent has connected again, here or elsewhere.

        Returns:
            Whether `done` will be called: another coordinator may know the session.
        """
        ...

    def agents(self) -> Iterable[RoutableAgent]:
        """Return the agents. Those that cannot be reached now are `overdue`."""
        ...

    def offering(self, model_id: str) -> Iterable[RoutableAgent]:
        """Return those of `agents` that offer a model."""
        ...


class NoRemoteAgents:
    """The remote agents of a coordinator that is not in a cluster."""

    def must_wait(self, _hello: Hello) -> bool:
        """Return False."""
        return False

    def agent_joined(self, _public_key: bytes, _instance_id: str) -> None:
        """Do nothing."""

    def take_over(
        self, _hello: Hello, _session_id: bytes, _done: Callable[[DetachedSession | None], None]
    ) -> bool:
        """Return False."""
        return False

    def agents(self) -> Iterable[RoutableAgent]:
        """Return nothing."""
        return ()

    def offering(self, _model_id: str) -> Iterable[RoutableAgent]:
        """Return nothing."""
        return ()


NO_REMOTE_AGENTS: Final = NoRemoteAgents()
