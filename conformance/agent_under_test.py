"""The agent under test, as the cases use it: its connections, jobs and reconnections."""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from provider_agent.conformance.case import NotHeld, NotTested, Unreachable, require
from provider_agent.conformance.coordinator_peer import (
    CoordinatorPeer,
    SentJob,
    new_job,
    new_welcome,
)
from provider_agent.conformance.peer import ANSWER_S, MAX_RECEIVED_BYTES
from provider_agent.conformance.usepod_peer import UsepodCoordinatorPeer
from provider_agent.protocol.frames import JobError, LiveJob, ResumedJob
from provider_agent.protocol.limits import SUBPROTOCOL

RECONNECT_S: Final = 20.0
"""How long an agent may take to reconnect with backoff after a short connection."""

GOING_AWAY: Final = 1001


class AgentListener:
    """Accepts the connections of the agent under test.

    Args:
        host: the address to listen on.
        port: the port; 0: a free one.
        authorities: further addresses (`host:port`) that the agent may dial.
        answer_s: how long an answer may take, in seconds.
        dialect: the protocol to speak with the agent.

    Attributes:
        dialect: see above.
        answer_s: how long an answer may take, in seconds.
        selects_subprotocol: whether an upgrade selects the subprotocol.
        peers: every connection, in order.
        taken: the connections that `next_dialed` has returned, in order.
    """

    def __init__(
        self,
        host: str,
        port: int,
        authorities: Sequence[str] = (),
        answer_s: float = ANSWER_S,
        dialect: str = SUBPROTOCOL,
    ) -> None:
        self.dialect = dialect
        self.answer_s = answer_s
        self.selects_subprotocol = True
        self.peers: list[CoordinatorPeer] = []
        self.taken: list[CoordinatorPeer] = []
        self._host, self._port = host, port
        self._further = list(authorities)
        self._dialed: asyncio.Queue[CoordinatorPeer] = asyncio.Queue()
        self._server: Server | None = None

    @property
    def url(self) -> str:
        """The address for the agent's configuration."""
        return f"ws://{self._host}:{self._port}/provider/connect"

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._handle,
            self._host,
            self._port,
            select_subprotocol=self._select,
            compression=None,
            ping_interval=None,
            close_timeout=1,
            max_size=MAX_RECEIVED_BYTES,
        )
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for peer in self.peers:
            if not peer.closed.is_set():
                await peer.close(GOING_AWAY, "the conformance tests have ended")
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def wait_for_agent(self, within_s: float) -> None:
        """Wait for the first connection; raises `NotHeld` if there is none."""
        try:
            async with asyncio.timeout(within_s):
                self._dialed.put_nowait(await self._next_open())
        except TimeoutError:
            raise NotHeld(f"the agent did not connect within {within_s:g} s") from None

    async def next_dialed(self) -> CoordinatorPeer:
        """Wait for an open connection that was not returned yet.

        Raises:
            Unreachable: the agent does not reconnect within `RECONNECT_S`.
        """
        try:
            async with asyncio.timeout(RECONNECT_S):
                peer = await self._next_open()
        except TimeoutError:
            raise Unreachable(f"the agent did not reconnect within {RECONNECT_S:g} s") from None
        self.taken.append(peer)
        return peer

    async def _next_open(self) -> CoordinatorPeer:
        while True:
            peer = await self._dialed.get()
            if not peer.closed.is_set():
                return peer

    async def _handle(self, socket: ServerConnection) -> None:
        authorities = [f"{host}:{self._port}" for host in (self._host, "127.0.0.1", "localhost")]
        peer_type = CoordinatorPeer if self.dialect == SUBPROTOCOL else UsepodCoordinatorPeer
        peer = peer_type(socket, [*authorities, *self._further], self.answer_s)
        self.peers.append(peer)
        self._dialed.put_nowait(peer)
        await peer.closed.wait()

    def _select(
        self, _connection: ServerConnection, offered: Sequence[Subprotocol]
    ) -> Subprotocol | None:
        chosen = Subprotocol(self.dialect)
        return chosen if self.selects_subprotocol and chosen in offered else None


class AgentUnderTest:
    """The agent for one case.

    When the context exits, jobs that the case left running are cancelled. The agent's newest
    connection stays open for the next case if its `Capabilities` have arrived; all others that a
    case has received are closed.

    Args:
        listener: accepts the agent's connections.
    """

    def __init__(self, listener: AgentListener) -> None:
        self.listener = listener

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for peer in self._taken_peers():
            try:
                await peer.end_jobs()
            except NotHeld:
                await peer.cut()
            if not peer.closed.is_set() and peer is not self._open_peer:
                await peer.close(GOING_AWAY, "the case has ended")

    async def close_connections(self) -> None:
        """Close the connections of a case that failed.

        The next case then starts on a new connection, without the state that the failed case left.
        """
        for peer in self._taken_peers():
            await peer.close(GOING_AWAY, "the case has ended")

    def _taken_peers(self) -> list[CoordinatorPeer]:
        """The open connections that cases have received; newer ones still wait for a case."""
        return [peer for peer in self.listener.taken if not peer.closed.is_set()]

    @property
    def _open_peer(self) -> CoordinatorPeer | None:
        """The newest connection, if it is open and admitted."""
        newest = self.listener.peers[-1] if self.listener.peers else None
        return newest if newest and not newest.closed.is_set() and newest.admitted else None

    async def connected(self) -> CoordinatorPeer:
        """Return the open connection; if there is none, wait for one, admit it and run a job.

        The job makes the session healthy, so that the agent reconnects within a second after the
        connection ends.
        """
        if self._open_peer is not None:
            return self._open_peer
        peer = await self.listener.next_dialed()
        await peer.authenticate()
        await peer.admit()
        await peer.run_job()
        return peer

    async def dialed(self) -> CoordinatorPeer:
        """Return a new connection, before `Challenge`; an open one is cut first."""
        if self._open_peer is not None:
            await self._open_peer.cut()
        return await self.listener.next_dialed()

    async def long_job(self, peer: CoordinatorPeer) -> SentJob:
        """Start a job, and return it when its window is full.

        Raises:
            NotHeld: the job or its connection fails, or the response has a gap.
            NotTested: the response is too short, or too slow.
        """
        job = await peer.send_job(new_job(peer.model_id, words=peer.long_words))
        try:
            await peer.expect_bytes(job, peer.window)
        except NotHeld as error:
            peer.data(job.job_id)  # raises if there is a gap
            if peer.closed.is_set() or peer.received_of(JobError, job.job_id):
                raise
            raise NotTested(
                f"{error}; use the echo backend, or a model with long answers"
            ) from None
        return job

    async def reconnected(
        self, lost: CoordinatorPeer, job: SentJob
    ) -> tuple[CoordinatorPeer, LiveJob]:
        """Cut a connection; return the next one, and the entry of `job` in its `Hello.live_jobs`.

        Raises:
            Unreachable: the agent does not reconnect within `RECONNECT_S`.
            NotHeld: `Hello` names another session, or does not list the job exactly once.
        """
        await lost.cut()
        peer = await self.listener.next_dialed()
        hello = await peer.authenticate()
        require(hello.session_id == lost.welcome.session_id, "Hello names another session")
        entries = [live for live in hello.live_jobs if live.job_id == job.job_id]
        require(len(entries) == 1, f"{len(entries)} entries in live_jobs for one running job")
        peer.adopt(job)
        return peer, entries[0]

    async def resume(self, peer: CoordinatorPeer, job: SentJob, offset: int) -> None:
        """Answer `Hello` with a `Welcome` in which the job continues at an offset."""
        await peer.admit(new_welcome(resumed=[ResumedJob(job.job_id, offset)]))
