"""One job of the scripted agent: a test sends its response step by step."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from msgspec import structs

from provider_agent.protocol.errors import entry_for
from provider_agent.protocol.frames import (
    AgentFrame,
    JobError,
    JobResult,
    JobStarted,
    LiveJob,
    Receipt,
    ResponseHeader,
    Usage,
)
from provider_agent.protocol.job import Job
from provider_agent.protocol.send_stream import SendStream

EVENT_STREAM = "text/event-stream"


class JobAgent(Protocol):
    """The agent that runs the job."""

    link_lost: bool

    async def send(self, *frames: AgentFrame) -> None: ...


class ScriptedJob:
    """One job of the agent; each step waits until its frames are sent or the link is lost.

    Attributes:
        stream: the job's response.
        cancelled: set by `Cancel`.
        window_changed: set by an acknowledgement, and when the link is lost or restored.
        done: set by the final acknowledgement.
        dropped: whether a later `Welcome` did not resume the job, or reported that the coordinator
            already has the job's end. No more frames are sent for the job.
    """

    def __init__(self, agent: JobAgent, job: Job, window: int) -> None:
        self.job = job
        self.stream = SendStream(job.job_id, window)
        self.cancelled = asyncio.Event()
        self.window_changed = asyncio.Event()
        self.done = asyncio.Event()
        self.dropped = False
        self._agent = agent

    async def start(
        self,
        status: int = 200,
        content_type: str = EVENT_STREAM,
        headers: Sequence[ResponseHeader] = (),
    ) -> None:
        self.stream.start(
            JobStarted(self.job.job_id, status, content_type, "scripted", list(headers))
        )
        await self._send_all()

    async def send(self, *pieces: bytes) -> None:
        """Send output; wait for acknowledgements while the window is full."""
        for piece in pieces:
            self.stream.write(piece)
            await self._send_all()

    async def finish(self, receipt: Receipt | None = None) -> None:
        result = JobResult(self.job.job_id, self.stream.written, Usage(3, 4), "scripted", 10, 5)
        self.stream.finish(structs.replace(result, receipt=receipt))
        await self._send_all()

    async def fail(
        self,
        code: str,
        message: str = "scripted failure",
        *,
        upstream_status: int | None = None,
        retryable: bool | None = None,
        retry_after_ms: int | None = None,
        body: bytes = b"",
        error_relayed: bool = False,
        between_events: bool = True,
    ) -> None:
        self.stream.finish(
            JobError(
                self.job.job_id,
                self.stream.written,
                code,
                message,
                upstream_status=upstream_status,
                retryable=entry_for(code).retryable if retryable is None else retryable,
                retry_after_ms=retry_after_ms,
                body=body,
                error_relayed=error_relayed,
                between_events=between_events,
            )
        )
        await self._send_all()

    async def answer(
        self, *pieces: bytes, status: int = 200, content_type: str = EVENT_STREAM
    ) -> None:
        """Send a complete response."""
        await self.start(status, content_type)
        await self.answer_rest(*pieces)

    async def answer_rest(self, *pieces: bytes) -> None:
        """Send the rest of a response that has started."""
        await self.send(*pieces)
        await self.finish()

    def live_job(self) -> LiveJob:
        """Return what the agent reports about the job when it reconnects."""
        return structs.replace(self.stream.live_job(), request_offset=len(self.job.request))

    async def _send_all(self) -> None:
        while True:
            await self.send_ready()
            if self.stream.sent == self.stream.written or self.dropped or self._agent.link_lost:
                return
            self.window_changed.clear()
            await self.window_changed.wait()

    async def send_ready(self) -> None:
        """Send the frames that the window allows now, without waiting for an acknowledgement."""
        while not self.dropped and not self._agent.link_lost:
            frames = self.stream.next_frames()
            if not frames:
                return
            await self._agent.send(*frames)
