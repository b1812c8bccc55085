"""Coordinators of a cluster, and an agent that moves between them: real state machines, no sockets.

A test delivers or loses each message. Messages of one kind between two coordinators stay in order,
those of different kinds may overtake each other.
"""

import functools
from collections import defaultdict, deque
from collections.abc import Callable
from enum import Enum, auto

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct
from msgspec.structs import replace

from provider_agent.coordinator.agents.close_reason import CloseReason
from provider_agent.coordinator.agents.connected_agent import ConnectedAgent
from provider_agent.coordinator.agents.fleet import Fleet
from provider_agent.coordinator.cluster.ids import tag_of
from provider_agent.coordinator.cluster.member import ClusterMember
from provider_agent.coordinator.cluster.takeover_messages import TakeoverAnswer, encode_takeover
from provider_agent.coordinator.sessions.running_job import RunningJob
from provider_agent.coordinator.settings import CoordinatorSettings
from provider_agent.protocol.agent_protocol import AgentProtocol
from provider_agent.protocol.codec import VERSION_1
from provider_agent.protocol.coordinator_protocol import CoordinatorProtocol
from provider_agent.protocol.formats import Operation
from provider_agent.protocol.frames import (
    Ack,
    AgentFrame,
    AgentLimits,
    Cancel,
    Capabilities,
    CoordinatorFrame,
    JobError,
    JobHeader,
    JobResult,
    JobStarted,
    LiveJob,
    RequestChunk,
    Usage,
    Welcome,
)
from provider_agent.protocol.job import Job
from provider_agent.protocol.limits import (
    BATCH_BYTES,
    MAX_MESSAGE_TO_AGENT_BYTES,
    MIN_WINDOW_BYTES,
)
from provider_agent.protocol.send_stream import SendStream
from provider_agent.protocol.state import State
from tests.kit.scripted_agent import offer

INTERVAL_S = 2.0
AUTHORITY = "localhost:1"
SETTINGS = CoordinatorSettings(window_bytes=MIN_WINDOW_BYTES)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


class Kind(Enum):
    """The NATS subscription that a message arrives at; none of them waits for another one."""

    BATCH = auto()
    SNAPSHOT = auto()
    REQUEST = auto()
    ANSWER = auto()


class Message(Struct, frozen=True):
    """A message on its way; `lose` tells the sender of a request that there is no answer.

    Of a request or an answer, `answered` processes the answer in its place.
    """

    deliver: Callable[[], None]
    lose: Callable[[], None] = lambda: None
    answered: Callable[[bytes | None], None] | None = None


Route = tuple[bytes, bytes, Kind]
"""Sender, receiver and kind."""


class Node:
    """One coordinator; the cluster carries its messages."""

    def __init__(self, own_id: bytes, cluster: "MemoryCluster") -> None:
        self.own_id = own_id
        self.cluster = cluster
        self.fleet = Fleet(SETTINGS, cluster.clock)
        self._sessions = 0
        self.member = ClusterMember(
            own_id,
            self.fleet,
            SETTINGS,
            interval_s=INTERVAL_S,
            clock=cluster.clock,
            wake=lambda: None,
            snapshot_changed=lambda: None,
            ask=functools.partial(cluster.ask, own_id),
        )
        self.member.set_connected(True)

    def __repr__(self) -> str:
        return f"<Node {self.member!r} {self.fleet!r}>"

    def new_id(self, number: int) -> bytes:
        """Return the id of a job or session that this coordinator creates."""
        return tag_of(self.own_id) + number.to_bytes(10)

    def new_session_id(self) -> bytes:
        self._sessions += 1
        return self.new_id(1 << 40 | self._sessions)

    def submit(self, number: int, request: bytes = b"{}") -> RunningJob:
        """Send a job of a client of this coordinator to the agent, wherever it is connected."""
        chosen = self.fleet.pick("tiny", Operation.CHAT)
        assert not isinstance(chosen, str), chosen
        job = Job(self.new_id(number), "tiny", "openai", request, 60_000, operation="chat")
        return chosen.submit(job)

    @property
    def jobs(self) -> int:
        """How many job objects this coordinator has, in all of its parts."""
        detached = sum(len(session.jobs) for session in self.fleet._detached)
        connected = sum(agent.in_flight for agent in self.fleet.snapshot())
        return len(self.member.edge) + len(self.member.holder) + detached + connected


class MemoryCluster:
    """Coordinators that know each other."""

    def __init__(self, count: int = 3) -> None:
        self.now = 1000.0
        self.messages: dict[Route, deque[Message]] = defaultdict(deque)
        self.nodes: dict[bytes, Node] = {}
        for number in range(count):
            own_id = bytes([ord("A") + number]) * 16
            self.nodes[own_id] = Node(own_id, self)
        self.settle()

    def clock(self) -> float:
        return self.now

    def node(self, index: int) -> Node:
        return list(self.nodes.values())[index]

    def crash(self, node: Node) -> None:
        """Stop a coordinator; the others notice it by its silence."""
        del self.nodes[node.own_id]
        for (_sender, receiver, _kind), queue in self.messages.items():
            if receiver == node.own_id:
                while queue:
                    queue.popleft().lose()

    def ask(
        self,
        sender: bytes,
        receiver: bytes,
        message: bytes,
        answered: Callable[[bytes | None], None],
    ) -> None:
        def deliver() -> None:
            answer = self.nodes[receiver].member.answer_takeover(message)
            back = Message(lambda: answered(answer), lambda: answered(None), answered)
            self._send(receiver, sender, Kind.ANSWER, back)

        request = Message(deliver, lambda: answered(None), answered)
        self._send(sender, receiver, Kind.REQUEST, request)

    def take_answers(self) -> list[tuple[bytes, Callable[[bytes | None], None]]]:
        """Remove all requests and answers; return each answering coordinator and its asker."""
        taken = []
        for (sender, receiver, kind), queue in self.messages.items():
            while kind in (Kind.REQUEST, Kind.ANSWER) and queue:
                answered = queue.popleft().answered
                assert answered is not None
                taken.append((receiver if kind is Kind.REQUEST else sender, answered))
        return taken

    def replace_answers(self, answer: TakeoverAnswer) -> None:
        """Answer all requests in the place of the coordinators: one with `answer`."""
        for coordinator, answered in self.take_answers():
            answered(encode_takeover(answer) if coordinator == answer.sender else None)

    def _send(self, sender: bytes, receiver: bytes, kind: Kind, message: Message) -> None:
        if receiver in self.nodes:
            self.messages[sender, receiver, kind].append(message)
        else:
            message.lose()

    def collect(self) -> None:
        """Put what the coordinators have queued for each other on its way."""
        for node in list(self.nodes.values()):
            while (queued := node.member.next_message()) is not None:
                receiver, message = queued
                deliver = functools.partial(self._deliver_batch, receiver, message)
                self._send(node.own_id, receiver, Kind.BATCH, Message(deliver))

    def _deliver_batch(self, receiver: bytes, message: bytes) -> None:
        self.nodes[receiver].member.receive_batch(message)

    def _deliver_snapshot(self, receiver: bytes, message: bytes) -> None:
        self.nodes[receiver].member.receive_snapshot(message)

    def send_snapshots(self) -> None:
        for node in list(self.nodes.values()):
            for message in node.member.snapshot():
                for receiver in self.nodes.keys() - {node.own_id}:
                    deliver = functools.partial(self._deliver_snapshot, receiver, message)
                    self._send(node.own_id, receiver, Kind.SNAPSHOT, Message(deliver))

    def routes(self, *kinds: Kind) -> list[Route]:
        """Return the routes with a message on its way; of all kinds if none is given."""
        return [
            route
            for route, queue in self.messages.items()
            if queue and route[1] in self.nodes and (not kinds or route[2] in kinds)
        ]

    def deliver(self, route: Route) -> None:
        """Deliver a message; a request or an answer does not overtake frames, as in NATS."""
        sender, receiver, kind = route
        if kind in (Kind.REQUEST, Kind.ANSWER):
            frames = self.messages[sender, receiver, Kind.BATCH]
            while frames:
                frames.popleft().deliver()
        self.messages[route].popleft().deliver()
        self.collect()

    def lose(self, route: Route) -> None:
        self.messages[route].popleft().lose()
        self.collect()

    def exchange(self, *kinds: Kind) -> None:
        """Deliver all messages of these kinds, and those that follow from them."""
        self.collect()
        while routes := self.routes(*kinds):
            for route in routes:
                if self.messages[route]:
                    self.deliver(route)

    def settle(self) -> None:
        """Let an interval pass in which nothing is lost."""
        self.now += INTERVAL_S
        self.send_snapshots()
        self.exchange()
        for node in list(self.nodes.values()):
            node.member.tick()
        self.exchange()


class Link:
    """One connection of the agent to a coordinator."""

    def __init__(self, node: Node, protocol: AgentProtocol) -> None:
        self.node = node
        self.protocol = protocol
        self.closed: CloseReason | None = None
        self.connected = ConnectedAgent(
            protocol=CoordinatorProtocol(nonce=bytes(32), name="", authorities=[AUTHORITY]),
            session_id=node.new_session_id(),
            registry=node.fleet,
            settings=SETTINGS,
            clock=node.cluster.clock,
            wake=lambda: None,
            close=self._close,
            check_alive=lambda report: report(True),
            remote="192.0.2.7",
        )

    def _close(self, reason: CloseReason) -> None:
        self.closed = reason

    def notice_loss(self) -> None:
        """Process the end of the connection at the coordinator; the session may be resumed."""
        self.connected.leave(keep_session=self.closed is None or self.closed.keep_session)

    def receive(self) -> list[CoordinatorFrame]:
        """Return the frames for the agent."""
        frames: list[CoordinatorFrame] = []
        while messages := self.connected.next_messages(BATCH_BYTES):
            for message in messages:
                decoded = VERSION_1.decode_from_coordinator(message, MAX_MESSAGE_TO_AGENT_BYTES)
                frames += filter(None, map(self.protocol.receive, decoded.frames))
        return frames

    def send(self, frames: list[AgentFrame]) -> None:
        if frames and self.closed is None:
            self.connected.receive_message(VERSION_1.encode(frames))


class AgentJob:
    """One job of the agent: `stream` is its response."""

    def __init__(self, header: JobHeader, window: int) -> None:
        self.header = header
        self.received = 0
        self.stream = SendStream(header.job_id, window)

    def live_job(self) -> LiveJob:
        return replace(self.stream.live_job(), request_offset=self.received)


class MovingAgent:
    """An agent without a backend: a test writes and ends the responses of its jobs."""

    def __init__(self) -> None:
        self.jobs: dict[bytes, AgentJob] = {}
        self.link: Link | None = None
        self.old_links: list[Link] = []
        """Lost connections whose end the coordinator has not noticed."""
        self._session_id: bytes | None = None

    def connect(self, node: Node, live_jobs: list[LiveJob] | None = None) -> Link:
        """Connect and send `Hello`; the agent loses its present connection."""
        self.lose_link()
        if live_jobs is None:
            live_jobs = [job.live_job() for job in self.jobs.values()]
        protocol = AgentProtocol(
            authority=AUTHORITY,
            public_key=KEY.public_key().public_bytes_raw(),
            sign=KEY.sign,
            agent_version="moving",
            instance_id="one",
            session_id=self._session_id,
            live_jobs=live_jobs,
        )
        self.link = Link(node, protocol)
        self.exchange()
        return self.link

    def lose_link(self) -> None:
        """Lose the connection; the coordinator does not notice it yet."""
        if self.link is not None:
            self.old_links.append(self.link)
            self.link = None

    def notice_losses(self) -> None:
        """Let the coordinators notice the lost connections."""
        for link in self.old_links:
            link.notice_loss()
        self.old_links.clear()

    def exchange(self) -> None:
        """Exchange frames with the coordinator until neither has one; the window permitting."""
        link = self.link
        while link is not None and link.closed is None:
            received = link.receive()
            for frame in received:
                self._on_frame(link, frame)
            frames = [*link.protocol.to_send]
            link.protocol.to_send.clear()
            if link.protocol.state is State.OPEN:
                for job in self.jobs.values():
                    while new := job.stream.next_frames():
                        frames += new
            link.send(frames)
            if not (received or frames):
                return
        if link is not None:  # closed; the agent connects again, at the same coordinator
            link.notice_loss()
            self.link = None
            self.connect(link.node)

    def _on_frame(self, link: Link, frame: CoordinatorFrame) -> None:
        match frame:
            case Welcome():
                self._on_welcome(link, frame)
            case JobHeader() if frame.job_id not in self.jobs:
                self.jobs[frame.job_id] = AgentJob(frame, SETTINGS.window_bytes)
            case RequestChunk() if frame.job_id in self.jobs:
                self.jobs[frame.job_id].received += len(frame.data)
            case Cancel() if frame.job_id in self.jobs:
                stream = self.jobs[frame.job_id].stream
                stream.drop_unsent()
                stream.finish(JobError(frame.job_id, stream.written, "cancelled", ""))
            case Ack() if frame.job_id in self.jobs:
                stream = self.jobs[frame.job_id].stream
                stream.acknowledge(frame.offset, final=frame.final)
                if stream.done:
                    del self.jobs[frame.job_id]

    def _on_welcome(self, link: Link, welcome: Welcome) -> None:
        self._session_id = welcome.session_id
        offsets = {job.job_id: job.offset for job in welcome.resumed if not job.ended}
        self.jobs = {job_id: job for job_id, job in self.jobs.items() if job_id in offsets}
        for job_id, offset in offsets.items():
            self.jobs[job_id].stream.rewind(offset)
        link.send([Capabilities(1, [offer("tiny")], AgentLimits(64))])

    def write(self, job_id: bytes, data: bytes) -> None:
        """Add output to a job, and send what the window allows."""
        stream = self.jobs[job_id].stream
        if stream.started is None:
            stream.start(JobStarted(job_id, 200, "text/event-stream", "moving"))
        stream.write(data)
        self.exchange()

    def finish(self, job_id: bytes) -> None:
        stream = self.jobs[job_id].stream
        stream.finish(JobResult(job_id, stream.written, Usage(1, 2), "moving", 5, 1))
        self.exchange()


def read(running: RunningJob) -> bytes:
    """Take the output of a job, as a client that reads everything."""
    data = running.take()
    running.owner.consume(running, len(data))
    return data
