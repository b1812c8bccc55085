"""The coordinator's state machine of one connection, sans-I/O: frames in, frames to send out.

`receive` processes one frame and returns it if the application has to act on it, otherwise None. Of
a `Chunk` it returns only the bytes that are new. `next_frames` returns what to send: control frames
in order, then the pieces of requests. A frame that breaks a rule of the protocol raises
`ProtocolViolation`; the caller then closes the connection with 1002.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

from msgspec.structs import replace

from provider_agent.protocol.auth import verify_signature
from provider_agent.protocol.exceptions import ProtocolViolation
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    Cancel,
    Capabilities,
    Challenge,
    Chunk,
    CoordinatorFrame,
    Draining,
    Heartbeat,
    Hello,
    JobError,
    JobResult,
    JobStarted,
    Rejected,
    Welcome,
)
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import MAX_LIVE_JOBS
from provider_agent.protocol.receipts import FEATURE
from provider_agent.protocol.receive_stream import ReceiveStream
from provider_agent.protocol.request import RequestQueue
from provider_agent.protocol.resumption import NO_RESUMPTION, Resumption
from provider_agent.protocol.state import State

BAD_SIGNATURE: Final = "bad_signature"
"""The code of the `Rejected` for a signature that is not for an accepted authority."""

_CONTROL_FRAME_BYTES: Final = 128
"""The estimated size of a control frame. Some, such as `RoutingStatus`, can be much larger."""


class CoordinatorProtocol:
    """The coordinator's side of one connection.

    Args:
        nonce: 32 random bytes, fresh for this connection.
        name: the coordinator's name.
        authorities: the addresses (`host:port`) at which agents may dial this coordinator, from its
            configuration, not from the `Host` header: a man in the middle controls that.
        features: the optional features that the coordinator supports.
        verify: returns whether the signature of a `Hello` is valid; by default, whether it covers
            the nonce and one of `authorities`.
        whole_requests: whether the agent receives each request in one piece.

    Attributes:
        state: the state of the connection.
        to_send: control frames to send, in order.
        requests: request bodies to send, after the control frames.
        streams: the response of each job whose end has not arrived, by job id.
        ended: job id → `total_bytes` of the latest jobs whose end has arrived.
        features: the optional features of this connection; empty before `accept`.
    """

    def __init__(
        self,
        *,
        nonce: bytes,
        name: str,
        authorities: Iterable[str],
        features: Iterable[str] = (),
        verify: Callable[[Hello], bool] | None = None,
        whole_requests: bool = False,
    ) -> None:
        self.state = State.AWAITING_HELLO
        self.requests = RequestQueue(whole=whole_requests)
        self.streams: dict[bytes, ReceiveStream] = {}
        self.ended: OrderedDict[bytes, int] = OrderedDict()
        self.features: frozenset[str] = frozenset()
        self._supported = list(features)
        self._requested: frozenset[str] = frozenset()
        self.to_send: list[CoordinatorFrame] = [Challenge(nonce, name, self._supported)]
        self._nonce = nonce
        self._authorities = tuple(authorities)
        self._verify = verify or self._is_signed_for_us
        self._window = 0

    def __repr__(self) -> str:
        return f"<CoordinatorProtocol {self.state} jobs={len(self.streams)}>"

    def receive(self, frame: AgentFrame) -> AgentFrame | None:
        """Process one frame of the agent; a returned `Chunk` holds only new bytes.

        The end of a job that holds its end is returned each time the agent sends it.

        The signature of a returned `Hello` is verified; answer it with `accept` or `reject`. After
        a bad signature the result is None, `Rejected` is in `to_send` and the state is `closed`.
        Frames of unknown jobs return None; an end is acknowledged all the same.

        Raises:
            ProtocolViolation: the state does not allow the frame, or the frame contradicts the
                earlier frames of its job or exceeds the window.
        """
        match self.state, frame:
            case State.OPEN, Chunk():
                return self._chunk(frame)
            case State.OPEN, JobStarted():
                return self._job_started(frame)
            case State.OPEN, JobResult() | JobError():
                return self._job_ended(frame)
            case State.OPEN, Capabilities() | Heartbeat() | Draining():
                return frame
            case State.AWAITING_HELLO, Hello():
                return self._authenticate(frame)
        raise ProtocolViolation(f"{type(frame).__name__} in the state {self.state}")

    def _authenticate(self, hello: Hello) -> Hello | None:
        if self._verify(hello):
            self.state = State.AUTHENTICATED
            self._requested = frozenset(hello.features)
            return hello
        self.reject(
            Rejected(
                BAD_SIGNATURE,
                "The signature is invalid: the agent dialed an address that is not in this "
                "coordinator's list, or its key file is damaged.",
            )
        )
        return None

    def _is_signed_for_us(self, hello: Hello) -> bool:
        return any(
            verify_signature(hello.public_key, hello.signature, authority, self._nonce)
            for authority in self._authorities
        )

    def accept(self, welcome: Welcome, resumption: Resumption = NO_RESUMPTION) -> None:
        """Admit the agent whose `Hello` was returned by `receive`.

        Args:
            welcome: the frame to send; its `resumed` and `features` are replaced.
            resumption: which jobs of the agent's detached session continue. For each of them, the
                caller then calls `cancel_job` if the job was cancelled, else `continue_request`.
        """
        if self.state is not State.AUTHENTICATED:
            raise RuntimeError(f"accept() in the state {self.state}")
        self.state = State.OPEN
        self._window = welcome.window_bytes
        self.streams = dict(resumption.streams)
        active = [name for name in self._supported if name in self._requested]
        self.features = frozenset(active)
        self.to_send.append(replace(welcome, resumed=resumption.resumed, features=active))
        for job_id, stream in self.streams.items():
            offset = stream.resume(self._window)
            if offset:
                self.to_send.append(Ack(job_id, offset))

    def reject(self, rejected: Rejected) -> None:
        """Reject an agent not yet admitted; the caller sends `to_send`, then closes."""
        if self.state not in (State.AWAITING_HELLO, State.AUTHENTICATED):
            raise RuntimeError(f"reject() in the state {self.state}")
        self.state = State.CLOSED
        self.to_send.append(rejected)

    def start_job(self, job: Job, *, holds_end: bool = False) -> None:
        """Send a job to the agent: its header, then its request in pieces.

        The header asks for a signed receipt only if receipts are active on this connection.

        Args:
            job: the job.
            holds_end: whether its end is acknowledged only by `acknowledge_end`. Until then the
                agent keeps the job, so that another link can resume it.
        """
        if self.state is not State.OPEN or job.job_id in self.streams:
            raise RuntimeError(f"start_job() in the state {self.state}, or with a job id in use")
        stream = self.streams[job.job_id] = ReceiveStream(self._window)
        stream.holds_end = holds_end
        sign_receipt = job.sign_receipt and FEATURE in self.features
        self.to_send.append(replace(job.header, sign_receipt=sign_receipt))
        self.requests.add(job.job_id, job.request)

    def continue_request(self, job: Job, offset: int) -> None:
        """Send the rest of a resumed job's request, from `offset` on."""
        self.requests.add(job.job_id, job.request, offset)

    def cancel_job(self, job_id: bytes, reason: str) -> None:
        """Ask the agent to stop a job, which still ends with an end frame."""
        self.requests.drop(job_id)
        if job_id in self.streams:
            self.to_send.append(Cancel(job_id, reason))

    def consumed(self, job_id: bytes, count: int) -> None:
        """Record that `count` more bytes of a response were passed on, or discarded."""
        stream = self.streams.get(job_id)
        offset = stream.consume(count) if stream is not None else None
        if offset is not None:
            self.to_send.append(Ack(job_id, offset))

    def acknowledge_end(self, job_id: bytes) -> None:
        """Acknowledge the end of a job whose end was held, and forget the job."""
        stream = self.streams.pop(job_id, None)
        if stream is not None:
            self._acknowledge_end(job_id, stream.received)

    def acknowledge(self) -> bool:
        """Queue an `Ack` for each response of which unacknowledged bytes were passed on.

        Returns whether unacknowledged bytes remain, because they are not passed on yet.
        """
        remain = False
        for job_id, stream in self.streams.items():
            if (offset := stream.acknowledge()) is not None:
                self.to_send.append(Ack(job_id, offset))
            remain = remain or stream.received > stream.acked
        return remain

    def _job_started(self, frame: JobStarted) -> JobStarted | None:
        stream = self.streams.get(frame.job_id)
        if stream is None:
            return None
        if stream.started:
            raise ProtocolViolation("a job that started twice")
        stream.started = True
        return frame

    def _chunk(self, frame: Chunk) -> Chunk | None:
        stream = self.streams.get(frame.job_id)
        if stream is None:
            return None
        if not stream.started:
            raise ProtocolViolation("a chunk of a job that has not started")
        fresh = stream.receive(frame)
        if not fresh:
            return None
        if len(fresh) == len(frame.data):
            return frame
        return Chunk(frame.job_id, stream.received - len(fresh), fresh)

    def _job_ended(self, frame: JobResult | JobError) -> JobResult | JobError | None:
        job_id = frame.job_id
        stream = self.streams.get(job_id)
        if stream is None:
            self.to_send.append(Ack(job_id, frame.total_bytes, final=True))
            return None
        stream.check_end(frame)
        self.requests.drop(job_id)
        if not stream.holds_end:
            del self.streams[job_id]
            self._acknowledge_end(job_id, frame.total_bytes)
        return frame

    def _acknowledge_end(self, job_id: bytes, total_bytes: int) -> None:
        """Send the final `Ack`; keep what `Welcome.resumed` reports if it is lost with the link."""
        self.to_send.append(Ack(job_id, total_bytes, final=True))
        self.ended[job_id] = total_bytes
        if len(self.ended) > MAX_LIVE_JOBS:
            self.ended.popitem(last=False)

    def next_frames(self, limit_bytes: int) -> list[CoordinatorFrame]:
        """Remove and return the frames of the next message, of about `limit_bytes` together.

        A piece of a request is sent only when no control frame waits.
        """
        count = max(1, limit_bytes // _CONTROL_FRAME_BYTES)
        frames = self.to_send[:count]
        del self.to_send[:count]
        size = len(frames) * _CONTROL_FRAME_BYTES
        if not self.to_send:
            while size < limit_bytes and (chunk := self.requests.next_chunk(limit_bytes - size)):
                frames.append(chunk)
                size += len(chunk.data) + _CONTROL_FRAME_BYTES
        return frames
