"""Replays a transcript through the state machines of both sides.

Each side has to produce its handshake and its job frames byte for byte. The transcript supplies
what is decided outside the state machines: when jobs arrive and are cancelled, what a server
answers, what a client has read, `Welcome`, the nonce and the size of each chunk. The other control
frames, such as `Capabilities` and `Drain`, are copied from it.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import groupby
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from provider_agent.protocol.agent_protocol import AgentProtocol
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    Cancel,
    Challenge,
    Chunk,
    CoordinatorFrame,
    Drain,
    Hello,
    JobError,
    JobHeader,
    JobResult,
    JobStarted,
    LiveJob,
    Notice,
    RequestChunk,
    RoutingStatus,
    Welcome,
)
from provider_agent.protocol.job import join_request
from provider_agent.protocol.request import RequestBuffer
from provider_agent.protocol.resumption import plan_resumption
from provider_agent.protocol.send_stream import SendStream
from provider_agent.protocol.state import State
from tests.unit.protocol.transcript import Close, Connect, Event, LinkLost, Message
from tests.unit.protocol.vectors import VECTORS

EXAMPLE: Final = VECTORS.signatures[0]
KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(EXAMPLE.seed))
LIMIT: Final = 4 * 1024 * 1024


def frames_of(message: Message) -> list[Any]:
    decode = (
        VERSION_1.decode_from_agent if message.sender == "A" else VERSION_1.decode_from_coordinator
    )
    decoded = decode(message.data, LIMIT)
    assert decoded.unknown_types == []
    return list(decoded.frames)


class ReplayedAgent:
    """The agent: one `SendStream` and one `RequestBuffer` for each job, across links.

    Args:
        responses: job id → the whole response.
    """

    def __init__(self, responses: dict[bytes, bytes]) -> None:
        self.streams: dict[bytes, SendStream] = {}
        self._requests: dict[bytes, RequestBuffer] = {}
        self._responses = responses
        self._session_id: bytes | None = None
        self._window = 0

    def connect(self, authority: str) -> None:
        self._protocol = AgentProtocol(
            authority=authority,
            public_key=KEY.public_key().public_bytes_raw(),
            sign=KEY.sign,
            agent_version="0.1.0",
            instance_id="i-1",
            session_id=self._session_id,
            live_jobs=list(self._live_jobs()),
        )

    def _live_jobs(self) -> Iterator[LiveJob]:
        for job_id, stream in self.streams.items():
            live = stream.live_job()
            yield LiveJob(
                job_id,
                live.first_offset,
                live.next_offset,
                self._requests[job_id].received,
                live.ended,
            )

    def receive(self, frame: CoordinatorFrame) -> None:
        self._protocol.receive(frame)
        match frame:
            case Welcome():
                self._welcomed(frame)
            case JobHeader():
                stream = SendStream(frame.job_id, self._window)
                self.streams[frame.job_id] = stream
                self._requests[frame.job_id] = RequestBuffer(frame.request_bytes)
            case RequestChunk():
                self._requests[frame.job_id].receive(frame)
            case Ack():
                stream = self.streams[frame.job_id]
                stream.acknowledge(frame.offset, final=frame.final)
                if stream.done:
                    del self.streams[frame.job_id]

    def _welcomed(self, welcome: Welcome) -> None:
        self._session_id, self._window = welcome.session_id, welcome.window_bytes
        kept = {}
        for resumed in welcome.resumed:
            if not resumed.ended:
                stream = kept[resumed.job_id] = self.streams[resumed.job_id]
                stream.rewind(resumed.offset)
        self.streams = kept

    def send(self, frames: list[AgentFrame]) -> list[AgentFrame]:
        """Return what the agent sends where the transcript has `frames`."""
        sent: list[AgentFrame] = []
        for job_id, group in groupby(frames, lambda frame: getattr(frame, "job_id", None)):
            run = list(group)
            sent += self._send_control(run) if job_id is None else self._send_job(job_id, run)
        return sent

    def _send_control(self, frames: list[AgentFrame]) -> list[AgentFrame]:
        return [
            self._protocol.to_send.pop(0) if isinstance(frame, Hello) else frame for frame in frames
        ]

    def _send_job(self, job_id: bytes, frames: list[AgentFrame]) -> list[AgentFrame]:
        stream = self.streams[job_id]
        sent: list[AgentFrame] = []
        for frame in frames:
            match frame:
                case JobStarted():
                    assert self._requests[job_id].complete
                    stream.start(frame)
                    stream.write(self._responses[job_id])
                case Chunk():
                    sent += stream.next_frames(len(frame.data))
                case JobResult() | JobError():
                    stream.finish(frame)
                    sent += stream.next_frames(0)
        return sent


class ReplayedCoordinator:
    """The coordinator, across links.

    Args:
        requests: job id → the whole request body.
    """

    def __init__(self, requests: dict[bytes, bytes]) -> None:
        self.protocol: CoordinatorProtocol
        self._detached: CoordinatorProtocol | None = None
        self._requests = requests
        self._headers: dict[bytes, JobHeader] = {}
        self._hello = Hello("", b"", b"")

    def connect(self, challenge: Challenge) -> None:
        self.protocol = CoordinatorProtocol(
            nonce=challenge.nonce, name=challenge.coordinator, authorities=[EXAMPLE.authority]
        )

    def lose_link(self) -> None:
        self._detached = self.protocol

    def receive(self, frame: AgentFrame) -> None:
        self.protocol.receive(frame)
        if isinstance(frame, Hello):
            self._hello = frame

    def send(self, frames: list[CoordinatorFrame]) -> list[CoordinatorFrame]:
        """Return what the coordinator sends where the transcript has `frames`."""
        if isinstance(frames[0], Challenge):
            self.connect(frames[0])
        for frame in frames:
            self._cause(frame, frames)
        sent = list(self.protocol.to_send)
        self.protocol.to_send.clear()
        for frame in frames:
            if isinstance(frame, RequestChunk):
                chunk = self.protocol.requests.next_chunk(len(frame.data))
                assert chunk is not None
                sent.append(chunk)
        return sent

    def _cause(self, frame: CoordinatorFrame, frames: list[CoordinatorFrame]) -> None:
        """Do what makes the coordinator send this frame."""
        protocol = self.protocol
        match frame:
            case Welcome():
                self._accept(frame, [one for one in frames if isinstance(one, Ack)])
            case JobHeader():
                self._headers[frame.job_id] = frame
                protocol.start_job(join_request(frame, self._requests[frame.job_id]))
            case Cancel():
                protocol.cancel_job(frame.job_id, frame.reason)
            case Ack() if not frame.final and frame not in protocol.to_send:
                stream = protocol.streams[frame.job_id]
                protocol.consumed(frame.job_id, frame.offset - stream.consumed)
            case Drain() | Notice() | RoutingStatus():
                protocol.to_send.append(frame)

    def _accept(self, welcome: Welcome, acks: list[Ack]) -> None:
        if self._detached is None:
            self.protocol.accept(welcome)
            return
        streams = self._detached.streams
        for ack in acks:
            streams[ack.job_id].consume(ack.offset - streams[ack.job_id].consumed)
        plan = plan_resumption(self._hello.live_jobs, streams, (), self._detached.ended)
        self.protocol.accept(welcome, plan)
        for job_id, offset in plan.request_offsets.items():
            job = join_request(self._headers[job_id], self._requests[job_id])
            self.protocol.continue_request(job, offset)


def replay(events: list[Event]) -> None:
    """Replay a transcript, and check that no job is left afterwards."""
    messages = [event for event in events if isinstance(event, Message)]
    agent = ReplayedAgent(_joined(Chunk, messages))
    coordinator = ReplayedCoordinator(_joined(RequestChunk, messages))
    for event in events:
        match event:
            case Connect():
                agent.connect(event.authority)
            case Message():
                _pass_on(event, agent, coordinator)
            case LinkLost():
                coordinator.lose_link()
            case Close(sender="C", code=1008):
                assert coordinator.protocol.state is State.CLOSED
            case Close(sender="A", code=1000):
                assert agent.streams == {}
            case _:
                raise AssertionError(f"no replay of {event}")
    assert agent.streams == {}
    assert coordinator.protocol.streams == {}
    assert coordinator.protocol.to_send == []
    assert not coordinator.protocol.requests


def _pass_on(message: Message, agent: ReplayedAgent, coordinator: ReplayedCoordinator) -> None:
    frames = frames_of(message)
    sender, receiver = (agent, coordinator) if message.sender == "A" else (coordinator, agent)
    sent = sender.send(frames)
    assert sent == frames
    assert VERSION_1.encode(sent) == message.data
    if not message.lost:
        for frame in frames:
            receiver.receive(frame)


def _joined(kind: type[Chunk] | type[RequestChunk], messages: list[Message]) -> dict[bytes, bytes]:
    """Return the data of all frames of one kind, joined for each job."""
    joined: dict[bytes, bytes] = defaultdict(bytes)
    for frame in (frame for message in messages for frame in frames_of(message)):
        if isinstance(frame, kind):
            joined[frame.job_id] = joined[frame.job_id][: frame.offset] + frame.data
    return joined
