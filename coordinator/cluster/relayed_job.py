"""One job that the agent of this coordinator runs for the client of another one."""

from typing import Protocol

from provider_agent.coordinator.sessions.detached_session import LostJob
from provider_agent.coordinator.sessions.running_job import JobOwner, RunningJob
from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import JobEnd, JobStarted
from provider_agent.protocol.job import Job
from provider_agent.protocol.send_stream import SendStream


class Relay(Protocol):
    """Sends the responses of relayed jobs to their edges."""

    def output_changed(self, job: "RelayedJob") -> None:
        """Send what the response has to send."""
        ...

    def agent_changed(self, job: "RelayedJob") -> None:
        """Report whether the agent of a job may be lost."""
        ...

    def job_lost(self, job: "RelayedJob", reason: str) -> None:
        """Report that a job will have no end, and forget it."""
        ...


class RelayedJob(RunningJob):
    """Passes the response on to the edge, instead of buffering it for a request.

    Args:
        job: the job, with its whole request.
        owner: the jobs of the connection that the job is sent over.
        ends_at: the job's deadline, in seconds of the coordinator's clock.
        public_key: the identity of the agent that runs the job.
        edge: the coordinator that owns the job.
        window_bytes: how many bytes may be sent and unacknowledged.
        renewed_at: when the edge renewed the job, in seconds of the coordinator's clock.
        relay: sends the response to the edge.

    Attributes:
        stream: the response, with the bytes that the edge has not acknowledged.
    """

    holds_end = True  # the agent keeps the job until its edge has everything

    __slots__ = ("_relay", "edge", "renewed_at", "stream")

    def __init__(
        self,
        job: Job,
        owner: JobOwner,
        ends_at: float,
        public_key: bytes,
        *,
        edge: bytes,
        window_bytes: int,
        renewed_at: float,
        relay: Relay,
    ) -> None:
        super().__init__(job, owner, ends_at, public_key)
        self.edge = edge
        self.renewed_at = renewed_at
        self.stream = SendStream(job.job_id, window_bytes)
        self._relay = relay

    def __repr__(self) -> str:
        return f"<RelayedJob edge={self.edge.hex()} {self.stream!r}>"

    def expect_receipt(self, expected: bool) -> None:
        """Do nothing: the edge, which receives every byte, checks the receipt."""

    def on_started(self, started: JobStarted) -> None:
        """Send the start of the response; it is repeated if the agent's link was lost."""
        super().on_started(started)
        self.stream.start(started)
        self._relay.output_changed(self)

    def on_data(self, data: bytes) -> None:
        """Send new bytes of the response.

        Raises:
            ProtocolViolation: the job has ended.
        """
        if self.end is not None:
            raise ProtocolViolation("a chunk after the end of its job")
        self.unconsumed += len(data)
        self.stream.write(data)
        self._relay.output_changed(self)

    def on_end(self, end: JobEnd) -> None:
        """Send the end of the job; ignore a second end."""
        if self.end is not None:
            return
        self.end = end
        if isinstance(end, LostJob):
            self._relay.job_lost(self, end.code)
        else:
            self.stream.finish(end)
            self._relay.output_changed(self)

    def set_lost(self, lost: bool) -> None:
        """Report to the edge that the agent may be lost, or that it has returned."""
        if lost is not self.lost:
            self.lost = lost
            self._relay.agent_changed(self)

    def acknowledge(self, offset: int, *, final: bool) -> int:
        """Forget the bytes before `offset`; return how many of them are newly acknowledged.

        Raises:
            ProtocolViolation: see `SendStream.acknowledge`.
        """
        before = self.stream.acked
        self.stream.acknowledge(offset, final=final)
        return self.stream.acked - before
