"""The coordinator under test, as the cases use it: agents' connections and clients' requests."""

import asyncio
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace
from websockets.exceptions import InvalidHandshake

from provider_agent.conformance.agent_peer import (
    EVENT_STREAM,
    AgentPeer,
    Process,
    dial,
    new_process,
    offer,
)
from provider_agent.conformance.case import NotHeld, NotTested, Unreachable, require
from provider_agent.conformance.client import Client, ClientRequest, chat_body
from provider_agent.conformance.failed_connection import describe
from provider_agent.conformance.peer import ABNORMAL, ANSWER_S
from provider_agent.conformance.played_job import PlayedJob
from provider_agent.conformance.usepod_agent_peer import UsepodAgentPeer
from provider_agent.protocol.auth import canonical_authority
from provider_agent.protocol.frames import JobHeader, LiveJob
from provider_agent.protocol.limits import SUBPROTOCOL


class CoordinatorTarget(Struct, frozen=True):
    """The coordinator under test.

    Attributes:
        url: where agents connect, `ws://…` or `wss://…`.
        submit_url: the address of its API for clients; "": the cases that need a job are not
            tested.
        api_key: the key for the API.
        enrollment_code: admits new keys.
        answer_s: how long an answer may take, in seconds.
        dialect: the protocol to speak with the coordinator.
    """

    url: str
    submit_url: str = ""
    api_key: str = ""
    enrollment_code: str = ""
    answer_s: float = ANSWER_S
    dialect: str = SUBPROTOCOL

    @property
    def subprotocol(self) -> str:
        """The subprotocol that the kit offers; "" for none."""
        return SUBPROTOCOL if self.dialect == SUBPROTOCOL else ""

    @property
    def authority(self) -> str:
        """The `host:port` that the kit dials, in the form that `Hello` signs."""
        parts = urlsplit(self.url)
        return canonical_authority(parts.scheme, parts.hostname or "", parts.port)


class CoordinatorUnderTest:
    """The connections and requests of one case. When the context exits, all of them end.

    Args:
        target: the coordinator.
        history: the case's connections are added to this list at the end, for the traffic rules.

    Attributes:
        target: the coordinator.
    """

    def __init__(self, target: CoordinatorTarget, history: list[AgentPeer] | None = None) -> None:
        self.target = target
        self._peers: list[AgentPeer] = []
        self._history = [] if history is None else history
        self._stack = AsyncExitStack()
        self._client: Client | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.gather(*(peer.cut() for peer in self._peers))
        self._history += self._peers
        await self._stack.aclose()

    # --- connections -------------------------------------------------------------------

    async def dial(
        self, process: Process | None = None, *, url: str = "", to_target: bool = False
    ) -> AgentPeer:
        """Open a connection, before `Hello`.

        Args:
            process: the agent process that connects; by default a new one.
            url: the WebSocket URL; by default the target's.
            to_target: whether the connection goes to the target, whatever `url` says; `url` then
                determines only the path and the `Host` header. Its scheme must be the target's.
        """
        parts = urlsplit(self.target.url)
        port = parts.port or (443 if parts.scheme == "wss" else 80)
        socket = await dial(
            url or self.target.url,
            self.target.answer_s,
            host=parts.hostname if to_target else None,
            port=port if to_target else None,
            subprotocol=self.target.subprotocol,
        )
        peer_type = AgentPeer if self.target.subprotocol else UsepodAgentPeer
        peer = peer_type(socket, process or new_process(), self.target.answer_s)
        self._peers.append(peer)
        return peer

    async def connect(
        self,
        process: Process | None = None,
        *,
        session_id: bytes | None = None,
        live_jobs: list[LiveJob] | None = None,
        replace_older: bool = False,
        features: list[str] | None = None,
    ) -> AgentPeer:
        """Connect, perform the handshake and offer the model of the process."""
        peer = await self.dial(process)
        hello = await peer.hello(
            self.target.authority,
            enrollment_code=self.target.enrollment_code,
            session_id=session_id,
            live_jobs=live_jobs,
            replace=replace_older,
            features=features,
        )
        await peer.send(hello)
        await peer.expect_welcome()
        await peer.advertise(offer(peer.process.model_id))
        return peer

    async def reconnect(self, lost: AgentPeer, *live_jobs: LiveJob) -> AgentPeer:
        """Cut a connection and resume its session."""
        await lost.cut()
        return await self.resume(lost, *live_jobs)

    async def resume(self, older: AgentPeer, *live_jobs: LiveJob) -> AgentPeer:
        """Open a connection that resumes the session of an older one."""
        if not older.welcome.resume_ms:
            raise NotTested("the coordinator keeps no session after a lost link (resume_ms is 0)")
        session_id = older.welcome.session_id
        return await self.connect(older.process, session_id=session_id, live_jobs=list(live_jobs))

    async def check_reachable(self) -> None:
        """Check that the coordinator still accepts connections, after a case that failed.

        Raises:
            Unreachable: the TCP connection fails or the upgrade times out; or a connection of this
                case ended without a Close frame, and the upgrade of a new one is refused. A refused
                upgrade alone may be a limit on connections.
        """
        try:
            probe = await dial(
                self.target.url, self.target.answer_s, subprotocol=self.target.subprotocol
            )
        except OSError as refused:  # `TimeoutError` is an `OSError`
            raise Unreachable(f"the coordinator cannot be reached: {describe(refused)}") from None
        except InvalidHandshake as refused:
            if any(peer.closed.is_set() and peer.close_code == ABNORMAL for peer in self._peers):
                raise Unreachable(f"the coordinator cannot be reached: {refused}") from None
        else:
            probe.transport.abort()

    # --- requests ----------------------------------------------------------------------

    async def check_submit_url(self) -> None:
        """Check that the API answers, if its address was given.

        Raises:
            Unreachable: it does not, because it is down or the address is wrong.
        """
        if self.target.submit_url:
            await (await self._open_client()).check_reachable()

    async def _open_client(self) -> Client:
        if self._client is None:
            client = Client(self.target.submit_url, self.target.api_key, self.target.answer_s)
            self._client = await self._stack.enter_async_context(client)
        return self._client

    async def post(self, body: bytes) -> ClientRequest:
        """Start a client's request.

        Raises:
            NotTested: there is no `submit_url`.
        """
        if not self.target.submit_url:
            raise NotTested("needs --submit-url, to cause a job")
        request = (await self._open_client()).post(body)
        self._stack.push_async_callback(request.disconnect)
        return request

    async def submit(self, agent: AgentPeer, *, pad_bytes: int = 0, body: bytes = b"") -> PlayedJob:
        """Send a client's request for the agent's model; wait for the header of its job.

        By default its body is that of `chat_body`.

        Raises:
            NotHeld: no header arrives in time.
            NotTested: there is no `submit_url`.
        """
        body = body or chat_body(agent.process.model_id, pad_bytes)
        request = await self.post(body)
        header = await self._expect_header(agent, request)
        return PlayedJob(agent, header, body, request)

    async def _expect_header(self, agent: AgentPeer, request: ClientRequest) -> JobHeader:
        try:
            return await agent.expect(
                JobHeader, where=lambda header: header.model_id == agent.process.model_id
            )
        except NotHeld as missing:
            if not request.answered:
                raise
            response = await request.response()
            raise NotHeld(f"{missing}; the client received HTTP {response.status}") from None

    async def start(self, agent: AgentPeer, content_type: str = EVENT_STREAM) -> PlayedJob:
        """Cause a job, receive its request and start its response."""
        job = await self.submit(agent)
        job.request = await agent.expect_request(job.header)
        await job.start(content_type)
        return job

    async def run_job(self, agent: AgentPeer, data: bytes = b"data: [DONE]\n\n") -> None:
        """Run one whole job, and check that its client receives the response."""
        job = await self.start(agent)
        await job.write(data)
        await job.finish()
        received, whole = await job.client.read_all()
        require(whole and received == data, f"the client received {len(received)} bytes")

    def other_process(self, agent: AgentPeer, *, instance_id: str) -> Process:
        """Another process with the agent's key and model."""
        return replace(agent.process, instance_id=instance_id)
