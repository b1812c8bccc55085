"""The kit as a coordinator of the dialect `usepod`, which the agent under test dials."""

from collections.abc import Iterable
from typing import Final

from websockets.asyncio.server import ServerConnection

from provider_agent.conformance.case import require
from provider_agent.conformance.coordinator_peer import CoordinatorPeer, SentJob, new_welcome
from provider_agent.conformance.peer import ANSWER_S, Frame
from provider_agent.conformance.usepod_messages import UsepodMessages
from provider_agent.protocol.ed25519 import is_valid_signature
from provider_agent.protocol.frames import Cancel, Capabilities, Challenge, Hello, JobError, Welcome
from provider_agent.protocol.limits import KIB, MAX_INTEGER
from provider_agent.protocol.usepod.error_codes import wire_code

HEARTBEAT_MS: Final = 15_000

_BEGUN_BYTES: Final = 1 * KIB
"""A long job has begun when this much of its response has arrived: nothing pauses it later."""


class UsepodCoordinatorPeer(CoordinatorPeer):
    """The kit's end of a connection from the agent under test, with the frames of version 1."""

    heartbeat_ms = HEARTBEAT_MS
    heartbeats = 2
    long_words = 3_000

    def __init__(
        self, socket: ServerConnection, authorities: Iterable[str], answer_s: float = ANSWER_S
    ) -> None:
        self._messages = UsepodMessages()
        super().__init__(socket, authorities, answer_s, decode=self._messages.decode)

    @property
    def window(self) -> int:
        """How much of a long job's response shows that it has begun; the dialect has no window."""
        return _BEGUN_BYTES

    async def authenticate(self, *, features: Iterable[str] = ()) -> Hello:  # noqa: ARG002
        """Send `auth_challenge`, and return the answer with a verified signature."""
        await self.send(Challenge(self.nonce, ""))
        hello = await self.expect(Hello)
        require(
            is_valid_signature(hello.public_key, hello.signature, self.nonce),
            "the signature of auth_response is not one over the nonce",
        )
        self._hello = hello
        return hello

    async def admit(self, welcome: Welcome | None = None, *further: Frame) -> None:
        """Send `auth_ok` and further messages; wait for `capabilities`."""
        self._welcome = welcome or new_welcome(
            window_bytes=MAX_INTEGER, max_message_bytes=MAX_INTEGER
        )
        await self.send(self._welcome, *further)
        self._capabilities = await self.expect(Capabilities)

    async def send(self, *frames: Frame) -> None:
        """Send the messages of these frames, whether the handshake allows them or not."""
        self._record(frames)
        for message in self._messages.encode(frames):
            await self.send_raw(message)

    async def expect_error(self, job: SentJob, *codes: str) -> JobError:
        """Wait for the end of a job, which must be an error with the form of one of the codes."""
        return await super().expect_error(job, *map(wire_code, codes))

    async def expect_close(self, *_codes: int, within_s: float | None = None) -> str:
        """Wait for the end of the connection, with any close code: the dialect names none."""
        await self.expect_end_of_connection(within_s)
        return "the connection ended"

    async def end_jobs(self) -> None:
        """Cancel the jobs that the case left running; a cancelled job has no end."""
        jobs, self._unended = self._unended, {}
        if jobs and not self.closed.is_set():
            await self.send(*map(Cancel, jobs))
            await self.settle()

    async def expect_silence(self, job: SentJob) -> None:
        """Check that nothing of a cancelled job arrives, except what is under way."""
        await self.run_job()  # the agent reads the cancel before this job
        size = len(self.received)
        await self.run_job()
        late = [
            frame for frame in self.received[size:] if getattr(frame, "job_id", b"") == job.job_id
        ]
        require(not late, f"{len(late)} messages of the job later")
        self._unended.pop(job.job_id, None)
