"""A job of the coordinator under test, executed by the kit."""

from provider_agent.conformance.agent_peer import (
    EVENT_STREAM,
    AgentPeer,
    chunk,
    error,
    result,
    started,
)
from provider_agent.conformance.client import ClientRequest
from provider_agent.protocol.frames import Ack, JobHeader, LiveJob


class PlayedJob:
    """A job that the kit executes as an agent. The kit also sent its request, as a client.

    Attributes:
        header: the received header.
        request: the received body.
        submitted: the body that the client sent.
        client: the client's request.
        agent: the connection that sends the response; replaced after a resumption.
        sent: how many bytes of the response have been sent.
    """

    def __init__(
        self,
        agent: AgentPeer,
        header: JobHeader,
        submitted: bytes,
        client: ClientRequest,
    ) -> None:
        self.agent = agent
        self.header = header
        self.submitted = submitted
        self.client = client
        self.request = b""
        self.sent = 0

    @property
    def job_id(self) -> bytes:
        """The job's id."""
        return self.header.job_id

    async def start(self, content_type: str = EVENT_STREAM) -> None:
        """Send `JobStarted`."""
        await self.agent.send(started(self.job_id, content_type))

    async def write(self, data: bytes) -> None:
        """Send bytes of the response, even if they exceed the window."""
        await self.agent.send(chunk(self.job_id, self.sent, data))
        self.sent += len(data)

    async def finish(self) -> Ack:
        """Send the end, and wait for its final acknowledgement."""
        await self.agent.send(result(self.job_id, self.sent))
        return await self.expect_final_ack()

    async def fail(self, code: str = "backend_error") -> Ack:
        """Send a `JobError`, and wait for its final acknowledgement."""
        await self.agent.send(error(self.job_id, self.sent, code))
        return await self.expect_final_ack()

    async def expect_final_ack(self) -> Ack:
        """Wait for the final acknowledgement; raises `NotHeld` if its offset is wrong."""
        return await self.agent.expect_final_ack(self.job_id, self.sent)

    def live(self, *, ended: bool = False, first_offset: int = 0) -> LiveJob:
        """The job's entry in `Hello.live_jobs`."""
        return LiveJob(self.job_id, first_offset, self.sent, self.header.request_bytes, ended)
